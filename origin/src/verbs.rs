//! The verbs that come by the control socket, and who does them.

use std::path::PathBuf;
use std::pin::Pin;

use keystore_types::AssetId;
use tokio::sync::mpsc;

use crate::control::{Control, ExportReport, IngestReport, Part, Progress, Refused};
use crate::export::Export;
use crate::ingest::Ingest;

/// Does each verb by what was made for it.
pub(crate) struct Verbs {
    pub(crate) ingest: Ingest,
    pub(crate) export: Export,
}

impl Control for Verbs {
    fn ingest(
        &self,
        asset: AssetId,
        paths: Vec<PathBuf>,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<IngestReport, Refused>> + Send + '_>> {
        Box::pin(self.ingest.run(asset, paths, progress))
    }

    fn export(
        &self,
        asset: AssetId,
        policies: Vec<String>,
        parts: mpsc::Sender<Part>,
    ) -> Pin<Box<dyn Future<Output = Result<ExportReport, Refused>> + Send + '_>> {
        Box::pin(self.export.run(asset, policies, parts))
    }
}
