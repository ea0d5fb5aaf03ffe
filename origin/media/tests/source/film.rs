//! A film of two tracks, small enough to break in every way: built as a tree of boxes, so that a test can
//! reach into one of them before the bytes are written.

/// A box: its four characters, then fields, then the boxes inside.
#[derive(Clone)]
pub struct Node {
    pub name: [u8; 4],
    pub fields: Vec<u8>,
    pub boxes: Vec<Node>,
}

impl Node {
    pub fn new(name: &[u8; 4], fields: impl Into<Vec<u8>>, boxes: impl Into<Vec<Node>>) -> Self {
        Self {
            name: *name,
            fields: fields.into(),
            boxes: boxes.into(),
        }
    }

    /// A full box of version 0 and no flags.
    pub fn full(name: &[u8; 4], fields: &[u8], boxes: impl Into<Vec<Node>>) -> Self {
        Self::new(name, [&[0; 4], fields].concat(), boxes)
    }

    /// The box at `path` inside this one, such as `trak/mdia`; the first of its name at each step, or the
    /// one whose number follows, as in `trak[1]`.
    pub fn at(&mut self, path: &str) -> &mut Node {
        path.split('/').fold(self, |node, step| {
            let (name, number) = match step.split_once('[') {
                Some((name, number)) => (name, number.trim_end_matches(']').parse().unwrap()),
                None => (step, 0),
            };
            let mut named = node
                .boxes
                .iter_mut()
                .filter(|child| child.name == name.as_bytes());
            named.nth(number).unwrap_or_else(|| panic!("no {step}"))
        })
    }

    pub fn remove(&mut self, name: &[u8; 4]) {
        self.boxes.retain(|child| child.name != *name);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [&[0; 4], &self.name[..], &self.fields].concat();
        for child in &self.boxes {
            out.extend(child.bytes());
        }
        let size = u32::try_from(out.len()).unwrap();
        out[..4].copy_from_slice(&size.to_be_bytes());
        out
    }
}

/// Numbers of 32 bits, as most fields are.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// x264, High profile level 1.3, 320x180, CABAC.
pub const SPS: &[u8] = &[
    0x67, 0x64, 0x00, 0x0d, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9e, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
    0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0x99, 0x60,
];
pub const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

/// `ftyp`, then `mdat`, then `moov`: so no change of `moov` moves a sample.
#[derive(Clone)]
pub struct Film {
    pub moov: Node,
    pub media: Vec<u8>,
}

/// Where the first sample lies: after `ftyp` and the header of `mdat`.
pub const MEDIA_AT: u32 = 24;

impl Film {
    /// Six pictures at 25 per second, shown in another order than decoded, key frames 0 and 3, an edit that
    /// skips the reordering; then four frames of stereo AAC-LC in English, their priming skipped. Samples are
    /// 10, 11, ... bytes long, in two chunks a track, video and audio in turn.
    pub fn new() -> Self {
        let avcc = [
            &[1, 0x64, 0, 0x0d, 0xff, 0xe1, 0, 25][..],
            SPS,
            &[1, 0, 6],
            PPS,
        ]
        .concat();
        let mut visual = vec![0; 78];
        visual[7] = 1; // data_reference_index
        visual[24..28].copy_from_slice(&[1, 0x40, 0, 0xb4]); // 320x180
        let avc1 = Node::new(b"avc1", visual, [Node::new(b"avcC", avcc, [])]);
        let mut audio = vec![0; 28];
        audio[7] = 1; // data_reference_index
        audio[17] = 2; // channelcount
        audio[24..26].copy_from_slice(&48_000_u16.to_be_bytes());
        let esds = [
            &[3, 25, 0, 2, 0, 4, 17, 0x40, 0x15][..],
            &[0; 11],
            &[5, 2, 0x11, 0x90, 6, 1, 2],
        ]
        .concat();
        let mp4a = Node::new(b"mp4a", audio, [Node::full(b"esds", &esds, [])]);

        let video = Node::new(
            b"stbl",
            [],
            [
                Node::full(b"stsd", &words(&[1]), [avc1]),
                Node::full(b"stts", &words(&[1, 6, 512]), []),
                Node::full(b"ctts", &words(&[4, 1, 512, 1, 1536, 1, 0, 3, 512]), []),
                Node::full(b"stss", &words(&[2, 1, 4]), []),
                Node::full(b"stsc", &words(&[2, 1, 4, 1, 2, 2, 1]), []),
                Node::full(b"stsz", &words(&[0, 6, 10, 11, 12, 13, 14, 15]), []),
                Node::full(b"stco", &words(&[2, MEDIA_AT, MEDIA_AT + 46 + 42]), []),
            ],
        );
        let sound = Node::new(
            b"stbl",
            [],
            [
                Node::full(b"stsd", &words(&[1]), [mp4a]),
                Node::full(b"stts", &words(&[1, 4, 1024]), []),
                Node::full(b"stsc", &words(&[1, 1, 2, 1]), []),
                Node::full(b"stsz", &words(&[21, 4]), []),
                Node::full(
                    b"stco",
                    &words(&[2, MEDIA_AT + 46, MEDIA_AT + 46 + 42 + 29]),
                    [],
                ),
            ],
        );
        let moov = Node::new(
            b"moov",
            [],
            [
                Node::full(
                    b"mvhd",
                    &[words(&[0, 0, 1000, 240]), vec![0; 80]].concat(),
                    [],
                ),
                trak(1, b"vide", 12_800, *b"und", &[1, 240, 512, 0x1_0000], video),
                trak(2, b"soun", 48_000, *b"eng", &[1, 64, 1024, 0x1_0000], sound),
            ],
        );
        // Nothing in the media is looked at by an index.
        let media = (0..46 + 42 + 29 + 42).collect();
        Self { moov, media }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let ftyp = Node::new(b"ftyp", *b"isom\0\0\0\0", []);
        let mdat = Node::new(b"mdat", self.media.clone(), []);
        [ftyp.bytes(), mdat.bytes(), self.moov.bytes()].concat()
    }
}

fn trak(
    id: u32,
    handler: &[u8; 4],
    timescale: u32,
    language: [u8; 3],
    elst: &[u32],
    stbl: Node,
) -> Node {
    let tkhd = [
        words(&[0, 0, id, 0, 240]),
        vec![0; 16],
        words(&[0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000, 0, 0]),
    ];
    let packed = language.iter().fold(0, |packed: u16, letter| {
        packed << 5 | u16::from(letter - 0x60)
    });
    let mdhd = [
        words(&[0, 0, timescale, 0]),
        packed.to_be_bytes().to_vec(),
        vec![0; 2],
    ];
    let hdlr = [&[0; 4], &handler[..], &[0; 12], b"Film\0"];
    let dref = Node::full(
        b"dref",
        &words(&[1]),
        [Node::new(b"url ", [0, 0, 0, 1], [])],
    );
    let minf = Node::new(b"minf", [], [Node::new(b"dinf", [], [dref]), stbl]);
    let mdia = [
        Node::full(b"mdhd", &mdhd.concat(), []),
        Node::full(b"hdlr", &hdlr.concat(), []),
        minf,
    ];
    Node::new(
        b"trak",
        [],
        [
            Node::full(b"tkhd", &tkhd.concat(), []),
            Node::new(b"edts", [], [Node::full(b"elst", &words(elst), [])]),
            Node::new(b"mdia", [], mdia),
        ],
    )
}
