//! ffmpeg as the referee: what it finds in a file, decrypts and decodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::appliance::project;

/// Above so many pictures only packets are compared: equal packets decode to equal pictures, and time is short.
const MANY_PICTURES: usize = 2000;

/// One of the ffmpegs of this machine.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
}

impl Ffmpeg {
    /// Debian's. Of encrypted tracks it reads an init with one segment; more of them joined it garbles, whoever
    /// packaged them.
    pub fn of_the_system() -> Option<Self> {
        Self::found("ffmpeg".into(), "ffprobe".into())
    }

    /// The newer one that `packaging/setup/python.sh` fetches, which reads joined encrypted tracks.
    pub fn newer() -> Option<Self> {
        let at = |name: &str| project().join("target/setup/bin").join(name);
        Self::found(at("ffmpeg"), at("ffprobe"))
    }

    /// Either that or nothing, said aloud; where nothing may be skipped, a failure.
    fn found(ffmpeg: PathBuf, ffprobe: PathBuf) -> Option<Self> {
        for program in [&ffmpeg, &ffprobe] {
            if Command::new(program).arg("-version").output().is_err() {
                assert!(
                    std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
                    "there is no {}",
                    program.display()
                );
                eprintln!(
                    "skipped: no {} (`make setup` sees to it)",
                    program.display()
                );
                return None;
            }
        }
        Some(Self { ffmpeg, ffprobe })
    }

    /// The digests of the packets of stream `index` and, if `decode`, of its pictures. Edit lists are left alone:
    /// every sample counts.
    pub fn digests(&self, file: &Path, index: usize, key: Option<&[u8]>, decode: bool) -> Digests {
        let out = tempfile::tempdir().unwrap();
        let (packets, pictures) = (out.path().join("packets"), out.path().join("pictures"));
        let mut command = Command::new(&self.ffmpeg);
        command.args(["-nostdin", "-v", "error", "-threads", "1"]);
        command.args(["-ignore_editlist", "1"]);
        if let Some(key) = key {
            let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            command.args(["-decryption_key", &key]);
        }
        let stream = format!("0:{index}");
        command.arg("-i").arg(file);
        command.args(["-map", &stream, "-c", "copy", "-copyinkf"]);
        command.args(["-f", "framemd5"]).arg(&packets);
        if decode {
            command.args(["-map", &stream, "-fps_mode", "passthrough"]);
            command.args(["-f", "framemd5"]).arg(&pictures);
        }
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Digests {
            packets: hash_column(&packets),
            pictures: if decode {
                hash_column(&pictures)
            } else {
                Vec::new()
            },
            complaint,
        }
    }

    /// The tracks of a source that are to be packaged: AVC as `avc1`, and AAC-LC.
    pub fn tracks(&self, file: &Path) -> Vec<Track> {
        let listed = self.probe(file, &["-show_streams"]);
        let streams = listed["streams"].as_array().unwrap();
        let fit = streams.iter().filter(|stream| {
            stream["codec_tag_string"] == "avc1"
                || (stream["codec_name"] == "aac" && stream["profile"] == "LC")
        });
        fit.map(|stream| self.track(file, stream)).collect()
    }

    fn track(&self, file: &Path, stream: &Value) -> Track {
        let index = usize::try_from(stream["index"].as_u64().unwrap()).unwrap();
        let video = stream["codec_name"] == "h264";
        let raw = self.packets(file, index, &["-ignore_editlist", "1"]);
        let edited: BTreeMap<u64, i64> = self
            .packets(file, index, &[])
            .into_iter()
            .map(|packet| (packet.place, packet.time))
            .collect();
        let mut key = i64::MIN;
        let mut leading = false;
        for packet in &raw {
            if packet.key {
                key = packet.time;
            }
            leading |= video && packet.time < key;
        }
        let decode = video && raw.len() <= MANY_PICTURES;
        let digests = self.digests(file, index, None, decode);
        assert_eq!(digests.complaint, "", "{}", file.display());
        let (_, timescale) = stream["time_base"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap();
        Track {
            name: format!("{}#{index}", file.file_name().unwrap().to_string_lossy()),
            video,
            timescale: timescale.parse().unwrap(),
            leading,
            digests,
            raw_times: raw.iter().map(|packet| packet.time).collect(),
            times: raw
                .iter()
                .map(|packet| edited.get(&packet.place).copied())
                .collect(),
        }
    }

    fn packets(&self, file: &Path, index: usize, options: &[&str]) -> Vec<Packet> {
        let stream = index.to_string();
        let wanted = ["-show_packets", "-select_streams", &stream];
        let listed = self.probe(file, &[options, &wanted].concat());
        let number = |value: &Value| value.as_str().unwrap().parse().unwrap();
        let packets = listed["packets"].as_array().unwrap().iter();
        packets
            .map(|packet| Packet {
                place: number(&packet["pos"]),
                time: packet["pts"].as_i64().unwrap(),
                key: packet["flags"].as_str().unwrap().starts_with('K'),
            })
            .collect()
    }

    fn probe(&self, file: &Path, options: &[&str]) -> Value {
        let output = Command::new(&self.ffprobe)
            .args(["-v", "error", "-of", "json"])
            .args(options)
            .arg(file)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

struct Packet {
    place: u64,
    time: i64,
    key: bool,
}

/// What ffmpeg made of a track.
#[derive(Debug)]
pub struct Digests {
    /// One per packet, in the order of decoding.
    pub packets: Vec<String>,
    /// One per picture, in the order of presentation.
    pub pictures: Vec<String>,
    /// What it complained of; empty if all was well.
    pub complaint: String,
}

/// A track of a source.
#[derive(Debug)]
pub struct Track {
    /// File and stream, for messages.
    pub name: String,
    pub video: bool,
    pub timescale: u32,
    /// Whether pictures that are shown before a key frame come after it: no segment that begins there decodes by
    /// itself.
    pub leading: bool,
    pub digests: Digests,
    /// When each sample is shown, in ticks, edit lists left alone.
    pub raw_times: Vec<i64>,
    /// The same with edit lists applied; none where they remove the sample.
    pub times: Vec<Option<i64>>,
}

impl Track {
    /// Whether its pictures can be compared a segment at a time.
    pub fn decodes_segment_by_segment(&self) -> bool {
        !self.leading && !self.digests.pictures.is_empty()
    }
}

/// The hash column of a framemd5 file: stream, dts, pts, duration, size, digest, then side data if any.
fn hash_column(file: &Path) -> Vec<String> {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').nth(5).unwrap().trim().to_owned())
        .collect()
}
