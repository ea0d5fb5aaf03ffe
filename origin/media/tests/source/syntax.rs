//! Parameter sets and slice headers written bit by bit, with every element that ITU-T H.264 7.3.2.1, 7.3.2.2
//! and 7.3.3 allow drawn by lot: fields, slice groups, colour planes, long-term references and all.

/// Numbers drawn from a seed, the same on every run.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number of `0..=max`.
    pub fn to(&mut self, max: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % (u64::from(max) + 1)).unwrap()
    }

    pub fn flag(&mut self) -> bool {
        self.to(1) == 1
    }

    /// A number from `-max` to `max`.
    fn signed(&mut self, max: i32) -> i32 {
        self.to(max.unsigned_abs() * 2).cast_signed() - max
    }
}

/// Bits of a raw byte sequence.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn u(&mut self, count: u32, value: u32) {
        self.0
            .extend((0..count).rev().map(|at| value >> at & 1 == 1));
    }

    fn flag(&mut self, value: bool) -> bool {
        self.0.push(value);
        value
    }

    fn ue(&mut self, value: u32) {
        let bits = 32 - (value + 1).leading_zeros();
        self.u(bits - 1, 0);
        self.u(bits, value + 1);
    }

    fn se(&mut self, value: i32) {
        self.ue(if value > 0 {
            2 * value.unsigned_abs() - 1
        } else {
            2 * value.unsigned_abs()
        });
    }

    /// The NAL unit of these bits and `payload`: stop bit, bytes, escapes.
    fn nal(mut self, payload: &[u8]) -> Vec<u8> {
        self.flag(true);
        self.0.resize(self.0.len().next_multiple_of(8), false);
        let plain = self
            .0
            .chunks(8)
            .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        let mut nal = Vec::new();
        let mut zeros = 0;
        for byte in plain.chain(payload.iter().copied()) {
            if zeros == 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}

/// A sequence and a picture parameter set, and what of them decides a slice header.
pub struct Sets {
    pub sps: Vec<u8>,
    pub pps: Vec<u8>,
    picture_id: u32,
    separate_planes: bool,
    chroma: bool,
    frame_num_bits: u32,
    order: Order,
    frame_mbs_only: bool,
    map_units: u32,
    cabac: bool,
    bottom_order: bool,
    group_change_rate: Option<u32>,
    active: [u32; 2],
    weighted: bool,
    bipred: u32,
    deblocking_control: bool,
    redundant: bool,
}

enum Order {
    Lsb(u32),
    Deltas { always_zero: bool },
    Decoding,
}

impl Sets {
    pub fn draw(draw: &mut Draw) -> Self {
        let mut b = Bits::default();
        let (profile, format) = [
            (66, 1),
            (77, 1),
            (88, 1),
            (100, 0),
            (100, 1),
            (122, 2),
            (244, 3),
        ][draw.to(6) as usize];
        let sequence_id = draw.to(31);
        b.u(8, 0x67);
        b.u(8, profile);
        b.u(8, 0);
        b.u(8, 40);
        b.ue(sequence_id);
        let mut separate_planes = false;
        if profile >= 100 {
            b.ue(format);
            if format == 3 {
                separate_planes = b.flag(draw.flag());
            }
            b.ue(0);
            b.ue(0);
            b.flag(false);
            if b.flag(draw.flag()) {
                for list in 0..if format == 3 { 12 } else { 8 } {
                    if b.flag(draw.flag()) {
                        scaling_list(&mut b, draw, if list < 6 { 16 } else { 64 });
                    }
                }
            }
        }
        let frame_num_bits = 4 + draw.to(12);
        b.ue(frame_num_bits - 4);
        let order = match draw.to(2) {
            0 => {
                let bits = 4 + draw.to(12);
                b.ue(0);
                b.ue(bits - 4);
                Order::Lsb(bits)
            }
            1 => {
                b.ue(1);
                let always_zero = b.flag(draw.flag());
                b.se(draw.signed(1000));
                b.se(draw.signed(1000));
                let cycle = draw.to(4);
                b.ue(cycle);
                (0..cycle).for_each(|_| b.se(draw.signed(1000)));
                Order::Deltas { always_zero }
            }
            _ => {
                b.ue(2);
                Order::Decoding
            }
        };
        b.ue(16); // max_num_ref_frames
        b.flag(draw.flag());
        let (width, height) = (1 + draw.to(40), 1 + draw.to(40));
        b.ue(width - 1);
        b.ue(height - 1);
        let frame_mbs_only = b.flag(draw.flag());
        if !frame_mbs_only {
            b.flag(draw.flag());
        }
        b.flag(true);
        if b.flag(draw.flag()) {
            (0..4).for_each(|_| b.ue(draw.to(1)));
        }
        if b.flag(draw.flag()) {
            if b.flag(draw.flag()) {
                b.u(8, 255);
                b.u(16, 1 + draw.to(99));
                b.u(16, 1 + draw.to(99));
            }
            if b.flag(draw.flag()) {
                b.flag(true);
            }
            if b.flag(draw.flag()) {
                b.u(3, 5);
                b.flag(draw.flag());
                if b.flag(draw.flag()) {
                    b.u(24, 0x01_0101);
                }
            }
            b.u(6, 0); // chroma location, timing, two HRDs, picture structure, restrictions
        }
        let mut sets = Self {
            sps: b.nal(&[]),
            pps: Vec::new(),
            picture_id: draw.to(255),
            separate_planes,
            chroma: format != 0 && !separate_planes,
            frame_num_bits,
            order,
            frame_mbs_only,
            map_units: width * height,
            cabac: draw.flag(),
            bottom_order: draw.flag(),
            group_change_rate: None,
            active: [1 + draw.to(5), 1 + draw.to(5)],
            weighted: draw.flag(),
            bipred: draw.to(2),
            deblocking_control: draw.flag(),
            redundant: draw.flag(),
        };
        sets.pps = sets.draw_picture(sequence_id, draw);
        sets
    }

    fn draw_picture(&mut self, sequence_id: u32, draw: &mut Draw) -> Vec<u8> {
        let mut b = Bits::default();
        b.u(8, 0x68);
        b.ue(self.picture_id);
        b.ue(sequence_id);
        b.flag(self.cabac);
        b.flag(self.bottom_order);
        let groups = if draw.flag() { 2 + draw.to(6) } else { 1 };
        b.ue(groups - 1);
        if groups > 1 {
            let kind = draw.to(6);
            b.ue(kind);
            match kind {
                0 => (0..groups).for_each(|_| b.ue(draw.to(self.map_units - 1))),
                1 => {}
                2 => (1..groups).for_each(|_| {
                    b.ue(0);
                    b.ue(draw.to(self.map_units - 1));
                }),
                3..=5 => {
                    b.flag(draw.flag());
                    let rate = 1 + draw.to(self.map_units - 1);
                    b.ue(rate - 1);
                    self.group_change_rate = Some(rate);
                }
                _ => {
                    b.ue(self.map_units - 1);
                    let bits = if groups > 4 { 3 } else { groups.div_ceil(2) };
                    (0..self.map_units).for_each(|_| b.u(bits, draw.to(groups - 1)));
                }
            }
        }
        b.ue(self.active[0] - 1);
        b.ue(self.active[1] - 1);
        b.flag(self.weighted);
        b.u(2, self.bipred);
        b.se(draw.signed(20));
        b.se(draw.signed(20));
        b.se(draw.signed(12));
        b.flag(self.deblocking_control);
        b.flag(draw.flag());
        b.flag(self.redundant);
        b.nal(&[])
    }

    /// A slice, and the number of bits of its header.
    pub fn draw_slice(&self, draw: &mut Draw) -> (Vec<u8>, usize) {
        let idr = draw.to(3) == 0;
        let reference = if idr { 1 + draw.to(2) } else { draw.to(3) };
        let mut b = Bits::default();
        b.u(8, reference << 5 | if idr { 5 } else { 1 });
        // P, B, I, SP, SI; an IDR picture has I and SI only.
        let kind = if idr {
            [2, 4][draw.to(1) as usize]
        } else {
            draw.to(4)
        };
        b.ue(draw.to(self.map_units - 1));
        b.ue(kind + 5 * draw.to(1));
        b.ue(self.picture_id);
        if self.separate_planes {
            b.u(2, draw.to(2));
        }
        // Zeros are drawn often, so that escapes fall into headers.
        let frame_num = if idr || draw.flag() {
            0
        } else {
            draw.to((1 << self.frame_num_bits) - 1)
        };
        b.u(self.frame_num_bits, frame_num);
        let mut field = false;
        if !self.frame_mbs_only {
            field = b.flag(draw.flag());
            if field {
                b.flag(draw.flag());
            }
        }
        if idr {
            b.ue(draw.to(65_535));
        }
        let bottom = self.bottom_order && !field;
        match self.order {
            Order::Lsb(bits) => {
                let lsb = if draw.flag() {
                    0
                } else {
                    draw.to((1 << bits) - 1)
                };
                b.u(bits, lsb);
                if bottom {
                    b.se(draw.signed(100_000));
                }
            }
            Order::Deltas { always_zero: false } => {
                b.se(draw.signed(100_000));
                if bottom {
                    b.se(draw.signed(100_000));
                }
            }
            Order::Deltas { always_zero: true } | Order::Decoding => {}
        }
        if self.redundant {
            b.ue(draw.to(127));
        }
        let lists = [1, 2, 0, 1, 0][kind as usize];
        if kind == 1 {
            b.flag(draw.flag());
        }
        let mut active = self.active;
        if lists > 0 && b.flag(draw.flag()) {
            for count in &mut active[..lists] {
                *count = 1 + draw.to(if field { 31 } else { 15 });
                b.ue(*count - 1);
            }
        }
        for _ in 0..lists {
            if b.flag(draw.flag()) {
                for _ in 0..draw.to(3) {
                    b.ue(draw.to(2));
                    b.ue(draw.to(14));
                }
                b.ue(3);
            }
        }
        if self.weighted && matches!(kind, 0 | 3) || self.bipred == 1 && kind == 1 {
            self.draw_weights(&mut b, &active[..lists], draw);
        }
        if reference > 0 {
            draw_marking(&mut b, idr, draw);
        }
        if self.cabac && lists > 0 {
            b.ue(draw.to(2));
        }
        b.se(draw.signed(6));
        if kind == 3 {
            b.flag(draw.flag());
        }
        if matches!(kind, 3 | 4) {
            b.se(draw.signed(6));
        }
        if self.deblocking_control {
            let disabled = draw.to(2);
            b.ue(disabled);
            if disabled != 1 {
                b.se(draw.signed(6));
                b.se(draw.signed(6));
            }
        }
        if let Some(rate) = self.group_change_rate {
            // Counted, not computed: the least number of bits that holds every cycle.
            let cycles = self.map_units.div_ceil(rate);
            let bits = (0..).find(|bits| cycles < 1 << bits).unwrap();
            b.u(bits, draw.to(cycles));
        }
        let len = b.0.len();
        // cabac_alignment_one_bit
        b.0.resize(len.next_multiple_of(8), true);
        (b.nal(&[0x80, 0, 0, 1, 0xff]), len)
    }

    fn draw_weights(&self, b: &mut Bits, active: &[u32], draw: &mut Draw) {
        b.ue(draw.to(7));
        if self.chroma {
            b.ue(draw.to(7));
        }
        for _ in 0..active.iter().sum() {
            if b.flag(draw.flag()) {
                (0..2).for_each(|_| b.se(draw.signed(127)));
            }
            if self.chroma && b.flag(draw.flag()) {
                (0..4).for_each(|_| b.se(draw.signed(127)));
            }
        }
    }
}

fn draw_marking(b: &mut Bits, idr: bool, draw: &mut Draw) {
    if idr {
        b.u(2, draw.to(3));
    } else if b.flag(draw.flag()) {
        for _ in 0..draw.to(4) {
            let operation = 1 + draw.to(5);
            b.ue(operation);
            let operands = [1, 1, 2, 1, 0, 1][operation as usize - 1];
            (0..operands).for_each(|_| b.ue(draw.to(7)));
        }
        b.ue(0);
    }
}

fn scaling_list(b: &mut Bits, draw: &mut Draw, size: usize) {
    let mut scale = 8;
    for _ in 0..size {
        let delta = draw.signed(20);
        b.se(delta);
        scale = (scale + delta + 256) % 256;
        if scale == 0 {
            return;
        }
    }
}
