//! What rows are measured on: the origin, nginx on its exported files, and folders for origins of a row's own.

use std::fs;
use std::path::{Path, PathBuf};

use super::castellum::{self, Castellum};
use super::cores::Cores;
use super::goals::{LADDER, LONG, SHORT};
use super::nginx::{self, Nginx};
use super::twin::Twin;
use super::{Failure, Plan};

/// Opens what rows ask for, when the first one does; everything ends and goes with it.
pub(super) struct Stage {
    plan: Plan,
    pair: Option<Pair>,
    licences: Option<Castellum>,
    alone: u32,
}

/// Both sides, on the same files.
pub(super) struct Pair {
    pub(super) castellum: Castellum,
    pub(super) nginx: Nginx,
    /// Where `NGINX_QUIC` names one.
    pub(super) quic: Option<Nginx>,
    pub(super) twin: Twin,
}

/// The usual size of `origin.cache.manifests`.
pub(super) const MANIFESTS: &str = "64MiB";

impl Stage {
    /// Makes the folder anew.
    pub(super) fn new(plan: Plan) -> Result<Self, Failure> {
        let stage = Self {
            plan,
            pair: None,
            licences: None,
            alone: 0,
        };
        stage.clear();
        let work = &stage.plan.work;
        fs::create_dir_all(work).map_err(|error| Failure::at(work, error))?;
        Ok(stage)
    }

    /// How long and how often is measured, and where.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn cores(&self) -> Cores {
        self.plan.cores
    }

    /// Both sides, started and idle.
    pub(super) fn pair(&mut self) -> Result<&Pair, Failure> {
        if self.pair.is_none() {
            self.pair = Some(self.open_pair()?);
        }
        Ok(self.pair.as_ref().expect("it was just put there"))
    }

    /// All roles in one process, started and idle.
    pub(super) fn licences(&mut self) -> Result<&Castellum, Failure> {
        if self.licences.is_none() {
            let folder = self.plan.work.join("licences");
            let castellum = self.open(&self.plan.media, &folder, MANIFESTS, true)?;
            castellum.settle()?;
            self.licences = Some(castellum);
        }
        Ok(self.licences.as_ref().expect("it was just put there"))
    }

    fn open_pair(&self) -> Result<Pair, Failure> {
        let (plan, work) = (&self.plan, &self.plan.work);
        let castellum = self.start(&plan.media, &work.join("castellum"), MANIFESTS)?;
        let root = work.join("twin");
        eprintln!("exporting what nginx is to serve");
        castellum.export(LADDER, &["cenc", "cbcs", "clear"], &root)?;
        for asset in [LONG, SHORT] {
            // A test's media may be less than the whole corpus.
            if plan.media.join(asset).with_extension("mp4").exists() {
                castellum.export(asset, &["clear"], &root)?;
            }
        }
        sync(&root)?;
        castellum.settle()?;
        let certificate = castellum.certificate();
        let start = |program: &Path, folder: &str, quic| {
            Nginx::start(&nginx::Setup {
                program,
                cores: plan.cores,
                root: &root,
                folder: &work.join(folder),
                certificate,
                quic,
            })
        };
        let nginx = start(&plan.nginx, "nginx", false)?;
        let quic = match &plan.nginx_quic {
            Some(program) => Some(start(program, "nginx-quic", true)?),
            None => None,
        };
        Ok(Pair {
            nginx,
            quic,
            twin: Twin::new(root.clone()),
            castellum,
        })
    }

    /// A folder for an origin of a row's own.
    pub(super) fn folder(&mut self) -> PathBuf {
        self.alone += 1;
        self.plan.work.join(format!("alone-{}", self.alone))
    }

    /// Starts an origin that keeps its state in `folder`.
    pub(super) fn start(
        &self,
        media: &Path,
        folder: &Path,
        manifests: &str,
    ) -> Result<Castellum, Failure> {
        self.open(media, folder, manifests, false)
    }

    fn open(
        &self,
        media: &Path,
        folder: &Path,
        manifests: &str,
        licences: bool,
    ) -> Result<Castellum, Failure> {
        Castellum::start(&castellum::Setup {
            program: &self.plan.castellum,
            cores: self.plan.cores,
            media,
            folder,
            manifests,
            licences,
        })
    }

    fn clear(&self) {
        // What cannot be removed is found when it is made anew.
        let _ = fs::remove_dir_all(&self.plan.work);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.pair = None;
        self.licences = None;
        self.clear();
    }
}

/// Gigabytes that were just written would be put on the disk while something is measured.
fn sync(folder: &Path) -> Result<(), Failure> {
    let opened = fs::File::open(folder).map_err(|error| Failure::at(folder, error))?;
    rustix::fs::syncfs(opened).map_err(|error| Failure::at(folder, error.into()))
}
