//! From the three letters of `mdhd` to a BCP 47 tag.

/// The tag for an ISO 639-2 code: the two-letter code where ISO 639-1 has one, as RFC 5646 2.2.1 demands;
/// `None` where the language is undetermined.
pub(super) fn bcp47(code: [u8; 3]) -> Option<String> {
    let code = str::from_utf8(&code).ok()?;
    // Undetermined, no linguistic content, several, uncoded, and reserved for local use.
    if matches!(code, "und" | "zxx" | "mul" | "mis") || ("qaa"..="qtz").contains(&code) {
        return None;
    }
    let short = SHORT
        .iter()
        .find(|(long, _)| long.split(' ').any(|one| one == code));
    Some(short.map_or(code, |(_, short)| *short).to_owned())
}

/// The three letters that `mdhd` can hold for `tag`: those of its primary language, if ISO 639-2 has them.
pub(crate) fn iso_639_2(tag: &str) -> Option<[u8; 3]> {
    let primary = tag.split('-').next()?.to_ascii_lowercase();
    let known = SHORT.iter().find(|(_, short)| *short == primary);
    let code = known
        .map_or(primary.as_str(), |(long, _)| &long[..3])
        .as_bytes();
    code.try_into()
        .ok()
        .filter(|code: &[u8; 3]| code.iter().all(u8::is_ascii_lowercase))
}

/// A tag as an `elng` box gives it, if it can be one.
pub(super) fn tag(text: &str) -> Option<String> {
    let subtag = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let sound = text.len() <= 64 && text.split('-').all(subtag);
    (sound && !text.eq_ignore_ascii_case("und")).then(|| text.to_owned())
}

/// ISO 639-2 codes (terminological, then bibliographic where it differs) that have an ISO 639-1 code.
#[rustfmt::skip]
const SHORT: &[(&str, &str)] = &[
    ("aar", "aa"), ("abk", "ab"), ("afr", "af"), ("aka", "ak"), ("amh", "am"), ("ara", "ar"), ("arg", "an"),
    ("asm", "as"), ("ava", "av"), ("ave", "ae"), ("aym", "ay"), ("aze", "az"), ("bak", "ba"), ("bam", "bm"),
    ("bel", "be"), ("ben", "bn"), ("bis", "bi"), ("bod tib", "bo"), ("bos", "bs"), ("bre", "br"), ("bul", "bg"),
    ("cat", "ca"), ("ces cze", "cs"), ("cha", "ch"), ("che", "ce"), ("chu", "cu"), ("chv", "cv"), ("cor", "kw"),
    ("cos", "co"), ("cre", "cr"), ("cym wel", "cy"), ("dan", "da"), ("deu ger", "de"), ("div", "dv"),
    ("dzo", "dz"), ("ell gre", "el"), ("eng", "en"), ("epo", "eo"), ("est", "et"), ("eus baq", "eu"),
    ("ewe", "ee"), ("fao", "fo"), ("fas per", "fa"), ("fij", "fj"), ("fin", "fi"), ("fra fre", "fr"),
    ("fry", "fy"), ("ful", "ff"), ("gla", "gd"), ("gle", "ga"), ("glg", "gl"), ("glv", "gv"), ("grn", "gn"),
    ("guj", "gu"), ("hat", "ht"), ("hau", "ha"), ("heb", "he"), ("her", "hz"), ("hin", "hi"), ("hmo", "ho"),
    ("hrv", "hr"), ("hun", "hu"), ("hye arm", "hy"), ("ibo", "ig"), ("ido", "io"), ("iii", "ii"), ("iku", "iu"),
    ("ile", "ie"), ("ina", "ia"), ("ind", "id"), ("ipk", "ik"), ("isl ice", "is"), ("ita", "it"), ("jav", "jv"),
    ("jpn", "ja"), ("kal", "kl"), ("kan", "kn"), ("kas", "ks"), ("kat geo", "ka"), ("kau", "kr"), ("kaz", "kk"),
    ("khm", "km"), ("kik", "ki"), ("kin", "rw"), ("kir", "ky"), ("kom", "kv"), ("kon", "kg"), ("kor", "ko"),
    ("kua", "kj"), ("kur", "ku"), ("lao", "lo"), ("lat", "la"), ("lav", "lv"), ("lim", "li"), ("lin", "ln"),
    ("lit", "lt"), ("ltz", "lb"), ("lub", "lu"), ("lug", "lg"), ("mah", "mh"), ("mal", "ml"), ("mar", "mr"),
    ("mkd mac", "mk"), ("mlg", "mg"), ("mlt", "mt"), ("mon", "mn"), ("mri mao", "mi"), ("msa may", "ms"),
    ("mya bur", "my"), ("nau", "na"), ("nav", "nv"), ("nbl", "nr"), ("nde", "nd"), ("ndo", "ng"), ("nep", "ne"),
    ("nld dut", "nl"), ("nno", "nn"), ("nob", "nb"), ("nor", "no"), ("nya", "ny"), ("oci", "oc"), ("oji", "oj"),
    ("ori", "or"), ("orm", "om"), ("oss", "os"), ("pan", "pa"), ("pli", "pi"), ("pol", "pl"), ("por", "pt"),
    ("pus", "ps"), ("que", "qu"), ("roh", "rm"), ("ron rum", "ro"), ("run", "rn"), ("rus", "ru"), ("sag", "sg"),
    ("san", "sa"), ("sin", "si"), ("slk slo", "sk"), ("slv", "sl"), ("sme", "se"), ("smo", "sm"), ("sna", "sn"),
    ("snd", "sd"), ("som", "so"), ("sot", "st"), ("spa", "es"), ("sqi alb", "sq"), ("srd", "sc"), ("srp", "sr"),
    ("ssw", "ss"), ("sun", "su"), ("swa", "sw"), ("swe", "sv"), ("tah", "ty"), ("tam", "ta"), ("tat", "tt"),
    ("tel", "te"), ("tgk", "tg"), ("tgl", "tl"), ("tha", "th"), ("tir", "ti"), ("ton", "to"), ("tsn", "tn"),
    ("tso", "ts"), ("tuk", "tk"), ("tur", "tr"), ("twi", "tw"), ("uig", "ug"), ("ukr", "uk"), ("urd", "ur"),
    ("uzb", "uz"), ("ven", "ve"), ("vie", "vi"), ("vol", "vo"), ("wln", "wa"), ("wol", "wo"), ("xho", "xh"),
    ("yid", "yi"), ("yor", "yo"), ("zha", "za"), ("zho chi", "zh"), ("zul", "zu"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_back_to_three_letters() {
        assert_eq!(iso_639_2("en"), Some(*b"eng"));
        assert_eq!(iso_639_2("de-CH"), Some(*b"deu"));
        assert_eq!(iso_639_2("gsw"), Some(*b"gsw"));
        assert_eq!(iso_639_2("x-private"), None);
    }

    #[test]
    fn the_shortest_code_wins() {
        for (code, tag) in [
            (b"eng", "en"),
            (b"fra", "fr"),
            (b"fre", "fr"),
            (b"zho", "zh"),
            (b"gsw", "gsw"),
        ] {
            assert_eq!(bcp47(*code).as_deref(), Some(tag));
        }
        for code in [b"und", b"mul", b"zxx", b"qaa", b"qtz"] {
            assert_eq!(bcp47(*code), None);
        }
    }

    #[test]
    fn the_table_has_each_code_once() {
        let mut codes: Vec<&str> = SHORT
            .iter()
            .flat_map(|(long, short)| long.split(' ').chain([*short]))
            .collect();
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
        // Those of ISO 639-1 that are in force: `bh` and `sh` were withdrawn.
        assert_eq!(SHORT.len(), 183);
    }

    #[test]
    fn only_sound_tags_pass() {
        assert_eq!(tag("pt-BR").as_deref(), Some("pt-BR"));
        for text in ["", "und", "en-", "en_US", "a b", "\"x\"", "toolongsubtag"] {
            assert_eq!(tag(text), None, "{text}");
        }
    }
}
