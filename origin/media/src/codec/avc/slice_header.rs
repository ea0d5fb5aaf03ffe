//! The length of a slice header (ITU-T H.264 7.3.3).
//!
//! Nothing of the header is kept: what matters is where it ends, to the bit, because protection begins at
//! the first whole byte after it (ISO/IEC 23001-7 9.5.2.2, 10.4.2). One element read too few or too many
//! would encrypt header bits, or shift every protected range of the sample.

use super::super::CodecError;
use super::super::bits::{BitReader, BitsError};
use super::parameter_sets::{
    MAX_REF_IDX, ParameterSets, PictureOrder, PictureParameterSet, SequenceParameterSet,
};

/// How far a slice header reaches, the NAL header included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceHeaderLen {
    /// Bits of the raw byte sequence, without emulation prevention bytes.
    pub bits: usize,
    /// Bytes of the stored NAL unit up to the first whole byte after the header, with emulation prevention
    /// bytes.
    pub bytes: usize,
}

/// Measures the slice header of `nal`, a coded slice (type 1 or 5).
///
/// # Errors
/// The header is malformed, is cut off, or names a parameter set that the configuration lacks.
pub fn slice_header_len(nal: &[u8], sets: &ParameterSets) -> Result<SliceHeaderLen, CodecError> {
    let mut bits = BitReader::of_nal(nal);
    let header = NalHeader::parse(&mut bits)?;
    bits.unsigned()?; // first_mb_in_slice
    let kind = SliceKind::of(bits.unsigned_to(9, "slice_type is above 9")?);
    let picture_id = bits.unsigned_to(255, "pic_parameter_set_id is above 255")?;
    let (sps, pps) = sets.of_slice(picture_id).ok_or_else(|| {
        CodecError::unsupported(format!(
            "a slice names picture parameter set {picture_id}, which avcC does not hold"
        ))
    })?;
    skip_rest(&mut bits, header, kind, sps, pps)?;
    Ok(SliceHeaderLen {
        bits: bits.bits_consumed(),
        bytes: bits.bytes_consumed(),
    })
}

#[derive(Clone, Copy)]
struct NalHeader {
    reference: bool,
    idr: bool,
}

impl NalHeader {
    fn parse(bits: &mut BitReader<'_>) -> Result<Self, BitsError> {
        let byte = bits.bits(8)?;
        if !matches!(byte & 0x1f, 1 | 5) {
            return Err(BitsError("the NAL unit is not a coded slice"));
        }
        Ok(Self {
            reference: byte >> 5 & 3 != 0,
            idr: byte & 0x1f == 5,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SliceKind {
    P,
    B,
    I,
    Sp,
    Si,
}

impl SliceKind {
    const fn of(slice_type: u32) -> Self {
        match slice_type % 5 {
            0 => Self::P,
            1 => Self::B,
            2 => Self::I,
            3 => Self::Sp,
            _ => Self::Si,
        }
    }

    /// How many reference lists it predicts from.
    const fn lists(self) -> usize {
        match self {
            Self::P | Self::Sp => 1,
            Self::B => 2,
            Self::I | Self::Si => 0,
        }
    }
}

fn skip_rest(
    bits: &mut BitReader<'_>,
    nal: NalHeader,
    kind: SliceKind,
    sps: &SequenceParameterSet,
    pps: &PictureParameterSet,
) -> Result<(), BitsError> {
    if sps.separate_colour_plane {
        bits.skip(2)?; // colour_plane_id
    }
    bits.skip(sps.frame_num_bits)?;
    let mut field = false;
    if !sps.frame_mbs_only {
        field = bits.bit()?;
        if field {
            bits.bit()?; // bottom_field_flag
        }
    }
    if nal.idr {
        bits.unsigned()?; // idr_pic_id
    }
    let has_bottom = pps.bottom_field_pic_order_in_frame_present && !field;
    match sps.picture_order {
        PictureOrder::Lsb { bits: lsb } => {
            bits.skip(lsb)?;
            if has_bottom {
                bits.signed()?; // delta_pic_order_cnt_bottom
            }
        }
        PictureOrder::Deltas { always_zero: false } => {
            bits.signed()?; // delta_pic_order_cnt[0]
            if has_bottom {
                bits.signed()?; // delta_pic_order_cnt[1]
            }
        }
        PictureOrder::Deltas { always_zero: true } | PictureOrder::DecodingOrder => {}
    }
    if pps.redundant_pic_cnt_present {
        bits.unsigned()?;
    }
    if kind == SliceKind::B {
        bits.bit()?; // direct_spatial_mv_pred_flag
    }
    let mut active = pps.num_ref_idx_default_active;
    if kind.lists() > 0 && bits.bit()? {
        for count in &mut active[..kind.lists()] {
            *count = 1 + bits.unsigned_to(MAX_REF_IDX, "num_ref_idx_active_minus1 is above 31")?;
        }
    }
    for _ in 0..kind.lists() {
        skip_ref_pic_list_modification(bits)?;
    }
    let weighted = match kind {
        SliceKind::P | SliceKind::Sp => pps.weighted_pred,
        SliceKind::B => pps.weighted_bipred_explicit,
        SliceKind::I | SliceKind::Si => false,
    };
    if weighted {
        skip_pred_weight_table(bits, &active[..kind.lists()], sps.has_chroma())?;
    }
    if nal.reference {
        skip_dec_ref_pic_marking(bits, nal.idr)?;
    }
    if pps.entropy_coding_mode && kind.lists() > 0 {
        bits.unsigned_to(2, "cabac_init_idc is above 2")?;
    }
    bits.signed()?; // slice_qp_delta
    if kind == SliceKind::Sp {
        bits.bit()?; // sp_for_switch_flag
    }
    if matches!(kind, SliceKind::Sp | SliceKind::Si) {
        bits.signed()?; // slice_qs_delta
    }
    if pps.deblocking_filter_control_present {
        let disabled = bits.unsigned_to(2, "disable_deblocking_filter_idc is above 2")? == 1;
        if !disabled {
            bits.signed()?; // slice_alpha_c0_offset_div2
            bits.signed()?; // slice_beta_offset_div2
        }
    }
    if let Some(change_rate) = pps.slice_group_change_rate {
        bits.skip(slice_group_change_cycle_bits(sps.map_units(), change_rate))?;
    }
    Ok(())
}

/// 7.3.3.1, for one list.
fn skip_ref_pic_list_modification(bits: &mut BitReader<'_>) -> Result<(), BitsError> {
    if !bits.bit()? {
        return Ok(());
    }
    // Each turn reads at least a bit, so the end of the unit ends the loop.
    loop {
        match bits.unsigned()? {
            // abs_diff_pic_num_minus1, long_term_pic_num
            0..=2 => bits.unsigned()?,
            3 => return Ok(()),
            _ => return Err(BitsError("modification_of_pic_nums_idc is above 3")),
        };
    }
}

/// 7.3.3.2.
fn skip_pred_weight_table(
    bits: &mut BitReader<'_>,
    active: &[u32],
    chroma: bool,
) -> Result<(), BitsError> {
    bits.unsigned_to(7, "luma_log2_weight_denom is above 7")?;
    if chroma {
        bits.unsigned_to(7, "chroma_log2_weight_denom is above 7")?;
    }
    for count in active {
        for _ in 0..*count {
            if bits.bit()? {
                bits.signed()?; // luma_weight
                bits.signed()?; // luma_offset
            }
            if chroma && bits.bit()? {
                for _ in 0..4 {
                    bits.signed()?; // chroma_weight and chroma_offset of Cb and Cr
                }
            }
        }
    }
    Ok(())
}

/// 7.3.3.3.
fn skip_dec_ref_pic_marking(bits: &mut BitReader<'_>, idr: bool) -> Result<(), BitsError> {
    if idr {
        return bits.skip(2); // no_output_of_prior_pics_flag, long_term_reference_flag
    }
    if !bits.bit()? {
        return Ok(());
    }
    loop {
        match bits.unsigned()? {
            0 => return Ok(()),
            // difference_of_pic_nums_minus1; long_term_pic_num; long_term_frame_idx;
            // max_long_term_frame_idx_plus1
            1 | 2 | 4 | 6 => {
                bits.unsigned()?;
            }
            3 => {
                bits.unsigned()?; // difference_of_pic_nums_minus1
                bits.unsigned()?; // long_term_frame_idx
            }
            5 => {}
            _ => return Err(BitsError("memory_management_control_operation is above 6")),
        }
    }
}

/// `Ceil(Log2(PicSizeInMapUnits ÷ SliceGroupChangeRate + 1))` with an exact division (7.4.3).
fn slice_group_change_cycle_bits(map_units: u32, change_rate: u32) -> u32 {
    // The least n with 2^n >= units / rate + 1.
    let steps = map_units.div_ceil(change_rate);
    u32::BITS - steps.leading_zeros()
}
