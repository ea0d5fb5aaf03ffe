//! A decoder configuration and a sample: a length of 2 bytes, the body of `avcC`, the sample.
//!
//! Its corpus is written by `tests/subsamples.rs`.
#![no_main]

use bytes::Bytes;
use keystore_types::Scheme;
use libfuzzer_sys::fuzz_target;
use origin_media::codec::AvcConfig;
use origin_media::index::protection::{MAX_SUBSAMPLES, map_sample};

fuzz_target!(|data: &[u8]| {
    let Some((len, rest)) = data.split_first_chunk() else {
        return;
    };
    let Some((avcc, sample)) = rest.split_at_checked(u16::from_be_bytes(*len).into()) else {
        return;
    };
    let Ok(config) = AvcConfig::parse(Bytes::copy_from_slice(avcc), None, None) else {
        return;
    };
    let maps = Scheme::ALL.map(|scheme| {
        let mut map = Vec::new();
        map_sample(&config, scheme, sample, &mut map).map(|()| map)
    });
    let [Ok(cenc), Ok(cbcs)] = &maps else {
        assert!(
            maps.iter().all(Result::is_err),
            "a sample is mapped for both schemes or for neither"
        );
        return;
    };
    for map in [cenc, cbcs] {
        assert!(map.len() <= MAX_SUBSAMPLES);
        let covered: u64 = map
            .iter()
            .map(|part| u64::from(part.clear) + u64::from(part.protected))
            .sum();
        assert_eq!(covered, sample.len() as u64);
    }
    assert!(cenc.iter().all(|part| part.protected.is_multiple_of(16)));
    assert!(
        cbcs.iter()
            .all(|part| part.protected == 0 || part.protected >= 16)
    );
});
