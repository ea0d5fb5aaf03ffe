use std::fmt;
use std::str::FromStr;

/// How AES is computed. Every form gives the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Safe code on the RustCrypto block cipher, on every processor: the reference for the others.
    Portable,
    /// One block in each 128-bit register (AES-NI).
    AesNi,
    /// Two blocks in each 256-bit register (VAES with AVX2); chains as in [`Form::AesNi`].
    Vaes,
}

impl Form {
    /// All forms, the fastest last.
    pub const ALL: [Self; 3] = [Self::Portable, Self::AesNi, Self::Vaes];

    /// The fastest form that this processor has.
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rfind(|form| form.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this processor has what the form needs.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let aes = is_x86_feature_detected!("aes") && is_x86_feature_detected!("ssse3");
        match self {
            Self::Portable => true,
            Self::AesNi => aes,
            Self::Vaes => {
                aes && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("vaes")
            }
        }
    }

    /// Whether this processor has what the form needs.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }

    /// The name in settings and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AesNi => "aes-ni",
            Self::Vaes => "vaes",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No form has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownForm;

impl FromStr for Form {
    type Err = UnknownForm;

    fn from_str(name: &str) -> Result<Self, UnknownForm> {
        Self::ALL
            .into_iter()
            .find(|form| form.as_str() == name)
            .ok_or(UnknownForm)
    }
}
