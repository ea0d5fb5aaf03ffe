//! Sequence and picture parameter sets (ITU-T H.264 7.3.2.1 and 7.3.2.2), as far as a slice header, the
//! picture size and the colour description need them.

use bytes::Bytes;

use super::super::bits::{BitReader, BitsError};
use super::super::{CodecError, Colour, PixelAspect};

/// Every parameter set of a track, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterSets {
    sequence: Vec<SequenceParameterSet>,
    picture: Vec<PictureParameterSet>,
    /// The sets as stored, to recognise repetitions inside samples.
    stored: Vec<Bytes>,
}

impl ParameterSets {
    /// Whether exactly this NAL unit is one of the sets of the configuration.
    pub fn contains(&self, nal: &[u8]) -> bool {
        self.stored.iter().any(|stored| stored == nal)
    }

    pub(super) fn add_sequence(&mut self, nal: &[u8]) -> Result<(), CodecError> {
        let set = SequenceParameterSet::parse(nal).map_err(|error| {
            CodecError::malformed(format!("sequence parameter set: {}", error.0))
        })?;
        self.sequence.retain(|other| other.id != set.id);
        self.sequence.push(set);
        self.stored.push(Bytes::copy_from_slice(nal));
        Ok(())
    }

    pub(super) fn add_picture(&mut self, nal: &[u8]) -> Result<(), CodecError> {
        let set = PictureParameterSet::parse(nal).map_err(|error| {
            CodecError::malformed(format!("picture parameter set: {}", error.0))
        })?;
        if self.sequence(set.sequence_id).is_none() {
            return Err(CodecError::malformed(format!(
                "picture parameter set {} names sequence parameter set {}, which is absent",
                set.id, set.sequence_id
            )));
        }
        self.picture.retain(|other| other.id != set.id);
        self.picture.push(set);
        self.stored.push(Bytes::copy_from_slice(nal));
        Ok(())
    }

    pub(super) fn first_sequence(&self) -> Option<&SequenceParameterSet> {
        self.sequence.first()
    }

    pub(super) fn has_picture(&self) -> bool {
        !self.picture.is_empty()
    }

    /// The picture parameter set that a slice names, with the sequence parameter set that it names in turn.
    pub(super) fn of_slice(
        &self,
        picture_id: u32,
    ) -> Option<(&SequenceParameterSet, &PictureParameterSet)> {
        let picture = self.picture.iter().find(|set| set.id == picture_id)?;
        Some((self.sequence(picture.sequence_id)?, picture))
    }

    fn sequence(&self, id: u32) -> Option<&SequenceParameterSet> {
        self.sequence.iter().find(|set| set.id == id)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SequenceParameterSet {
    id: u32,
    pub(super) chroma_format: ChromaFormat,
    pub(super) separate_colour_plane: bool,
    pub(super) frame_num_bits: u32,
    pub(super) picture_order: PictureOrder,
    width_in_mbs: u32,
    height_in_map_units: u32,
    pub(super) frame_mbs_only: bool,
    crop: [u32; 4],
    pub(super) colour: Option<Colour>,
    pub(super) pixel_aspect: Option<PixelAspect>,
}

/// `chroma_format_idc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChromaFormat {
    Monochrome,
    Yuv420,
    Yuv422,
    Yuv444,
}

/// `pic_order_cnt_type`, with what of it a slice header depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PictureOrder {
    Lsb { bits: u32 },
    Deltas { always_zero: bool },
    DecodingOrder,
}

/// Macroblocks either way: level 6.2 allows 139,264 in all, at most 1,055 either way.
const MAX_MBS_EITHER_WAY: u32 = 4096;

impl SequenceParameterSet {
    fn parse(nal: &[u8]) -> Result<Self, BitsError> {
        let mut bits = BitReader::of_nal(nal);
        if bits.bits(8)? & 0x1f != 7 {
            return Err(BitsError("the NAL unit is of another type"));
        }
        let profile = bits.bits(8)?;
        bits.skip(16)?;
        let id = bits.unsigned_to(31, "seq_parameter_set_id is above 31")?;
        let mut chroma_format = ChromaFormat::Yuv420;
        let mut separate_colour_plane = false;
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            chroma_format = match bits.unsigned()? {
                0 => ChromaFormat::Monochrome,
                1 => ChromaFormat::Yuv420,
                2 => ChromaFormat::Yuv422,
                3 => ChromaFormat::Yuv444,
                _ => return Err(BitsError("chroma_format_idc is above 3")),
            };
            if chroma_format == ChromaFormat::Yuv444 {
                separate_colour_plane = bits.bit()?;
            }
            bits.unsigned()?; // bit_depth_luma_minus8
            bits.unsigned()?; // bit_depth_chroma_minus8
            bits.bit()?; // qpprime_y_zero_transform_bypass_flag
            if bits.bit()? {
                let lists = if chroma_format == ChromaFormat::Yuv444 {
                    12
                } else {
                    8
                };
                for list in 0..lists {
                    if bits.bit()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let frame_num_bits = 4 + bits.unsigned_to(12, "log2_max_frame_num_minus4 is above 12")?;
        let picture_order = match bits.unsigned()? {
            0 => PictureOrder::Lsb {
                bits: 4 + bits.unsigned_to(12, "log2_max_pic_order_cnt_lsb_minus4 is above 12")?,
            },
            1 => {
                let always_zero = bits.bit()?;
                bits.signed()?; // offset_for_non_ref_pic
                bits.signed()?; // offset_for_top_to_bottom_field
                let cycle =
                    bits.unsigned_to(255, "num_ref_frames_in_pic_order_cnt_cycle is above 255")?;
                for _ in 0..cycle {
                    bits.signed()?;
                }
                PictureOrder::Deltas { always_zero }
            }
            2 => PictureOrder::DecodingOrder,
            _ => return Err(BitsError("pic_order_cnt_type is above 2")),
        };
        bits.unsigned()?; // max_num_ref_frames
        bits.bit()?; // gaps_in_frame_num_value_allowed_flag
        let too_wide = "the picture is more than 4096 macroblocks wide or high";
        let width_in_mbs = 1 + bits.unsigned_to(MAX_MBS_EITHER_WAY - 1, too_wide)?;
        let height_in_map_units = 1 + bits.unsigned_to(MAX_MBS_EITHER_WAY - 1, too_wide)?;
        let frame_mbs_only = bits.bit()?;
        if !frame_mbs_only {
            bits.bit()?; // mb_adaptive_frame_field_flag
        }
        bits.bit()?; // direct_8x8_inference_flag
        let mut crop = [0; 4];
        if bits.bit()? {
            for side in &mut crop {
                *side = bits.unsigned_to(1 << 16, "a cropping offset is above 65536")?;
            }
        }
        let (mut colour, mut pixel_aspect) = (None, None);
        if bits.bit()? {
            pixel_aspect = parse_aspect_ratio(&mut bits)?;
            if bits.bit()? {
                bits.bit()?; // overscan_appropriate_flag
            }
            if bits.bit()? {
                colour = parse_signal_type(&mut bits)?;
            }
        }
        Ok(Self {
            id,
            chroma_format,
            separate_colour_plane,
            frame_num_bits,
            picture_order,
            width_in_mbs,
            height_in_map_units,
            frame_mbs_only,
            crop,
            colour,
            pixel_aspect,
        })
    }

    /// `PicSizeInMapUnits`.
    pub(super) fn map_units(&self) -> u32 {
        self.width_in_mbs * self.height_in_map_units
    }

    /// Whether chroma is coded with the slice: `ChromaArrayType` is not 0.
    pub(super) fn has_chroma(&self) -> bool {
        self.chroma_format != ChromaFormat::Monochrome && !self.separate_colour_plane
    }

    /// Width and height in luma samples after cropping (7.4.2.1.1, equations 7-19 to 7-22).
    pub(super) fn cropped_size(&self) -> Result<(u32, u32), CodecError> {
        let fields = if self.frame_mbs_only { 1 } else { 2 };
        let (unit_x, unit_y) = if self.separate_colour_plane {
            (1, fields)
        } else {
            match self.chroma_format {
                ChromaFormat::Monochrome | ChromaFormat::Yuv444 => (1, fields),
                ChromaFormat::Yuv422 => (2, fields),
                ChromaFormat::Yuv420 => (2, 2 * fields),
            }
        };
        let [left, right, top, bottom] = self.crop;
        let width = (16 * self.width_in_mbs).checked_sub(unit_x * (left + right));
        let height = (16 * fields * self.height_in_map_units).checked_sub(unit_y * (top + bottom));
        match (width, height) {
            (Some(width @ 1..), Some(height @ 1..)) => Ok((width, height)),
            _ => Err(CodecError::malformed(
                "sequence parameter set: cropping leaves no picture",
            )),
        }
    }
}

fn skip_scaling_list(bits: &mut BitReader<'_>, size: u32) -> Result<(), BitsError> {
    let (mut last, mut next) = (8_i32, 8_i32);
    for _ in 0..size {
        if next != 0 {
            let delta = bits.signed()?;
            if !(-128..=127).contains(&delta) {
                return Err(BitsError("delta_scale is out of range"));
            }
            next = (last + delta + 256) % 256;
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
}

/// The pixel shape of `aspect_ratio_info` (annex E.1.1, table E-1); `None` where it is unspecified.
fn parse_aspect_ratio(bits: &mut BitReader<'_>) -> Result<Option<PixelAspect>, BitsError> {
    const EXTENDED_SAR: usize = 255;
    const TABLE_E_1: [(u32, u32); 17] = [
        (0, 0),
        (1, 1),
        (12, 11),
        (10, 11),
        (16, 11),
        (40, 33),
        (24, 11),
        (20, 11),
        (32, 11),
        (80, 33),
        (18, 11),
        (15, 11),
        (64, 33),
        (160, 99),
        (4, 3),
        (3, 2),
        (2, 1),
    ];
    if !bits.bit()? {
        return Ok(None);
    }
    let (horizontal, vertical) = match usize::from(bits.byte(8)?) {
        EXTENDED_SAR => (bits.bits(16)?, bits.bits(16)?),
        named => TABLE_E_1.get(named).copied().unwrap_or((0, 0)),
    };
    Ok(PixelAspect::new(horizontal, vertical))
}

/// The colour description of `video_signal_type` (annex E.1.1), if there is one.
fn parse_signal_type(bits: &mut BitReader<'_>) -> Result<Option<Colour>, BitsError> {
    bits.skip(3)?; // video_format
    let full_range = bits.bit()?;
    if !bits.bit()? {
        return Ok(None);
    }
    let mut code_point = || bits.byte(8).map(u16::from);
    Ok(Some(Colour {
        primaries: code_point()?,
        transfer: code_point()?,
        matrix: code_point()?,
        full_range,
    }))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PictureParameterSet {
    id: u32,
    sequence_id: u32,
    /// CABAC rather than CAVLC.
    pub(super) entropy_coding_mode: bool,
    pub(super) bottom_field_pic_order_in_frame_present: bool,
    /// `SliceGroupChangeRate` where the slice group map type is 3, 4 or 5 (7.4.2.2).
    pub(super) slice_group_change_rate: Option<u32>,
    pub(super) num_ref_idx_default_active: [u32; 2],
    pub(super) weighted_pred: bool,
    pub(super) weighted_bipred_explicit: bool,
    pub(super) deblocking_filter_control_present: bool,
    pub(super) redundant_pic_cnt_present: bool,
}

/// The largest `num_ref_idx_active_minus1` (7.4.2.2 and 7.4.3).
pub(super) const MAX_REF_IDX: u32 = 31;

impl PictureParameterSet {
    fn parse(nal: &[u8]) -> Result<Self, BitsError> {
        let mut bits = BitReader::of_nal(nal);
        if bits.bits(8)? & 0x1f != 8 {
            return Err(BitsError("the NAL unit is of another type"));
        }
        let id = bits.unsigned_to(255, "pic_parameter_set_id is above 255")?;
        let sequence_id = bits.unsigned_to(31, "seq_parameter_set_id is above 31")?;
        let entropy_coding_mode = bits.bit()?;
        let bottom_field_pic_order_in_frame_present = bits.bit()?;
        let groups = 1 + bits.unsigned_to(7, "num_slice_groups_minus1 is above 7")?;
        let slice_group_change_rate = if groups > 1 {
            parse_slice_groups(&mut bits, groups)?
        } else {
            None
        };
        let too_many = "num_ref_idx_default_active_minus1 is above 31";
        let num_ref_idx_default_active = [
            1 + bits.unsigned_to(MAX_REF_IDX, too_many)?,
            1 + bits.unsigned_to(MAX_REF_IDX, too_many)?,
        ];
        let weighted_pred = bits.bit()?;
        let weighted_bipred_explicit = bits.bits(2)? == 1;
        bits.signed()?; // pic_init_qp_minus26
        bits.signed()?; // pic_init_qs_minus26
        bits.signed()?; // chroma_qp_index_offset
        let deblocking_filter_control_present = bits.bit()?;
        bits.bit()?; // constrained_intra_pred_flag
        let redundant_pic_cnt_present = bits.bit()?;
        Ok(Self {
            id,
            sequence_id,
            entropy_coding_mode,
            bottom_field_pic_order_in_frame_present,
            slice_group_change_rate,
            num_ref_idx_default_active,
            weighted_pred,
            weighted_bipred_explicit,
            deblocking_filter_control_present,
            redundant_pic_cnt_present,
        })
    }
}

fn parse_slice_groups(bits: &mut BitReader<'_>, groups: u32) -> Result<Option<u32>, BitsError> {
    match bits.unsigned()? {
        0 => {
            for _ in 0..groups {
                bits.unsigned()?; // run_length_minus1
            }
            Ok(None)
        }
        1 => Ok(None),
        2 => {
            for _ in 1..groups {
                bits.unsigned()?; // top_left
                bits.unsigned()?; // bottom_right
            }
            Ok(None)
        }
        3..=5 => {
            bits.bit()?; // slice_group_change_direction_flag
            let limit = MAX_MBS_EITHER_WAY * MAX_MBS_EITHER_WAY;
            Ok(Some(
                1 + bits.unsigned_to(limit, "slice_group_change_rate_minus1 is too large")?,
            ))
        }
        6 => {
            let units = 1 + u64::from(bits.unsigned()?); // pic_size_in_map_units_minus1
            let width = u32::BITS - (groups - 1).leading_zeros(); // Ceil(Log2(groups))
            for _ in 0..units {
                bits.skip(width)?; // slice_group_id
            }
            Ok(None)
        }
        _ => Err(BitsError("slice_group_map_type is above 6")),
    }
}
