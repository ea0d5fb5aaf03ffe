//! The root under a key that is split into shares: any m of n give the key, fewer give nothing.
//!
//! Shamir's scheme over GF(2^8), byte by byte, by the crate `blahaj`: the maintained successor of `sharks` without its
//! bias (RUSTSEC-2024-0398), with nothing around it but the scheme. Its coefficients come from the system's generator
//! alone; tests of ours look at their distribution, and at what two of three shares tell.
//!
//! # A share
//! ```text
//! text    CS1-XXXXX-XXXXX-...-XXXX     Crockford's base 32: no I, L, O or U, either case, hyphens and blanks as one likes
//! bytes   set (8) | index | threshold | value (32) | check (4)
//! ```
//! `index` counts from 1 and is the share's place x, `value` the polynomials' values there. `check` is the head of a
//! SHA-256 over what is before it, and says that a share was typed wrongly before anybody is asked for another. The
//! keystore keeps a commitment to each share, the SHA-256 of set, threshold, index and value: so a share that was not
//! dealt is found out, and named, the moment it is given, not when the last one fails to open the root. A value has 256
//! bits that nobody can try, so a commitment says nothing of it.
//!
//! # Stored parameters
//! ```text
//! set (8) | threshold | commitment (32) for each share
//! ```

use std::fmt;

use keystore_client::admin::{MAX_SHARES, SharePlan, UnlockMethod};
use rand_core::{Infallible, TryCryptoRng, TryRng};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::SealedRoot;
use crate::error::{Error, ErrorKind};
use crate::hardening::Guarded;
use crate::seal::{KeyBytes, WrappingKey, fill, random_key};

/// The shares' root, the set and the shares themselves.
pub(crate) fn seal(
    root: &KeyBytes,
    plan: SharePlan,
    random: &SystemRandom,
) -> Result<(SealedRoot, ShareSet, Vec<Share>), Error> {
    let key = random_key(random)?;
    let (set, shares) = split(&key, plan, random)?;
    let key = WrappingKey::new(&key)?;
    let sealed = SealedRoot::seal(root, UnlockMethod::Shares, set.encode(), &key, random)?;
    Ok((sealed, set, shares))
}

/// The root again, of as many checked shares of its set as the threshold asks for.
///
/// # Errors
/// [`ErrorKind::DoesNotOpen`] for fewer.
pub(crate) fn open(sealed: &SealedRoot, shares: &[Share]) -> Result<KeyBytes, Error> {
    let set = ShareSet::decode(&sealed.parameters)?;
    let key = combine(shares, set.threshold)?;
    sealed.open(&WrappingKey::new(&key)?)
}

/// The public half of a set of shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShareSet {
    id: SetId,
    threshold: u8,
    /// By index, which counts from 1.
    commitments: Vec<[u8; 32]>,
}

/// Names a set: random, so that shares of two ceremonies are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId([u8; 8]);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl ShareSet {
    pub(crate) fn id(&self) -> SetId {
        self.id
    }

    pub(crate) fn threshold(&self) -> u8 {
        self.threshold
    }

    /// Whether the share is one of this set, as it was dealt.
    ///
    /// # Errors
    /// Names the share.
    pub(crate) fn check(&self, share: &Share) -> Result<(), ShareFault> {
        let (index, set) = (share.index, share.set);
        if set != self.id {
            let ours = self.id;
            return Err(ShareFault::Foreign { index, set, ours });
        }
        let place = usize::from(index).checked_sub(1);
        match place.and_then(|place| self.commitments.get(place)) {
            Some(commitment) if *commitment == share.commitment() => Ok(()),
            Some(_) | None => Err(ShareFault::NotDealt { index }),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.0.to_vec();
        bytes.push(self.threshold);
        bytes.extend(self.commitments.iter().flatten());
        bytes
    }

    /// The set that is stored.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub(crate) fn decode(parameters: &[u8]) -> Result<Self, Error> {
        let decode = || {
            let (id, rest) = parameters.split_first_chunk()?;
            let (&threshold, rest) = rest.split_first()?;
            let (commitments, []) = rest.as_chunks::<32>() else {
                return None;
            };
            let count = u8::try_from(commitments.len()).ok()?;
            ((2..=count).contains(&threshold) && count <= MAX_SHARES).then(|| Self {
                id: SetId(*id),
                threshold,
                commitments: commitments.to_vec(),
            })
        };
        decode().ok_or_else(|| Error::damaged("the stored set of shares is none"))
    }
}

/// One share. What is secret of it lies in locked memory and is wiped.
#[derive(Debug)]
pub(crate) struct Share {
    set: SetId,
    index: u8,
    threshold: u8,
    value: Guarded<KeyBytes>,
}

/// What every share's text begins with: the version of the form.
const PREFIX: &str = "CS1";

const PAYLOAD: usize = 8 + 1 + 1 + 32;
const CHECK: usize = 4;

/// Symbols of 5 bits each.
const SYMBOLS: usize = ((PAYLOAD + CHECK) * 8).div_ceil(5);

/// Symbols between two hyphens.
const GROUP: usize = 5;

/// Crockford's base 32, by value.
const ALPHABET: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Share {
    fn new(set: SetId, index: u8, threshold: u8, value: KeyBytes) -> Result<Self, Error> {
        Ok(Self {
            set,
            index,
            threshold,
            value: Guarded::new(value)?,
        })
    }

    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// What the keeper writes down.
    pub(crate) fn text(&self) -> SecretString {
        let mut bytes = Zeroizing::new([0; PAYLOAD + CHECK]);
        bytes[..8].copy_from_slice(&self.set.0);
        bytes[8] = self.index;
        bytes[9] = self.threshold;
        bytes[10..PAYLOAD].copy_from_slice(self.value.as_slice());
        let check = check(&bytes[..PAYLOAD]);
        bytes[PAYLOAD..].copy_from_slice(&check);

        // Reserved at once: a text that grows leaves unwiped copies behind.
        let len = PREFIX.len() + SYMBOLS + SYMBOLS.div_ceil(GROUP);
        let mut text = String::with_capacity(len);
        text.push_str(PREFIX);
        for at in 0..SYMBOLS {
            if at % GROUP == 0 {
                text.push('-');
            }
            let value: u8 = (at * 5..at * 5 + 5)
                .map(|bit| {
                    let byte = bytes.get(bit / 8).copied().unwrap_or(0);
                    byte >> (7 - bit % 8) & 1
                })
                .fold(0, |value, bit| value << 1 | bit);
            text.push(char::from(ALPHABET[usize::from(value)]));
        }
        debug_assert_eq!(text.len(), len);
        // Exactly as long as its capacity, so that it is not moved.
        SecretString::from(text)
    }

    /// Reads a share as it was typed, or a file of one: lines that begin with `#` are remarks.
    ///
    /// # Errors
    /// What is wrong with the text; and when there is no memory.
    pub(crate) fn parse(text: &str) -> Result<Self, ShareError> {
        let typed = (text.lines())
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::bytes)
            .filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-')
            .map(|byte| match byte.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                byte => byte,
            });
        let mut symbols = Zeroizing::new([0; SYMBOLS]);
        let mut count = 0;
        let mut prefix = PREFIX.bytes();
        for byte in typed {
            match prefix.next() {
                Some(expected) if expected == byte => continue,
                Some(_) => return Err(ShareFault::NotAShare.into()),
                None => {}
            }
            let value = ALPHABET.iter().position(|symbol| *symbol == byte);
            let (Some(place), Some(value)) = (symbols.get_mut(count), value) else {
                return Err(ShareFault::NotAShare.into());
            };
            *place = u8::try_from(value).unwrap_or(0);
            count += 1;
        }
        if count != SYMBOLS {
            return Err(ShareFault::NotAShare.into());
        }
        let mut bytes = Zeroizing::new([0_u8; PAYLOAD + CHECK]);
        let mut spare = 0;
        for (at, symbol) in symbols.iter().enumerate() {
            for bit in 0..5 {
                let value = symbol >> (4 - bit) & 1;
                match bytes.get_mut((at * 5 + bit) / 8) {
                    Some(byte) => *byte |= value << (7 - (at * 5 + bit) % 8),
                    None => spare |= value,
                }
            }
        }
        if spare != 0 || bytes[PAYLOAD..] != check(&bytes[..PAYLOAD]) {
            return Err(ShareFault::Mistyped.into());
        }
        let mut set = [0; 8];
        set.copy_from_slice(&bytes[..8]);
        let mut value = KeyBytes::default();
        value.copy_from_slice(&bytes[10..PAYLOAD]);
        Ok(Self::new(SetId(set), bytes[8], bytes[9], value)?)
    }

    fn commitment(&self) -> [u8; 32] {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 + PAYLOAD));
        bytes.extend_from_slice(b"castellum share 1");
        bytes.extend_from_slice(&self.set.0);
        bytes.extend_from_slice(&[self.threshold, self.index]);
        bytes.extend_from_slice(self.value.as_slice());
        let mut commitment = [0; 32];
        commitment.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        commitment
    }
}

fn check(payload: &[u8]) -> [u8; CHECK] {
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 + PAYLOAD));
    bytes.extend_from_slice(b"castellum share text 1");
    bytes.extend_from_slice(payload);
    let mut check = [0; CHECK];
    check.copy_from_slice(&digest(&SHA256, &bytes).as_ref()[..CHECK]);
    check
}

/// What is wrong with a share that was given. It names the share and says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareFault {
    /// The text has not the form of one.
    NotAShare,
    /// It has the form, and its check does not add up.
    Mistyped,
    /// It is of another ceremony, or of another keystore.
    Foreign { index: u8, set: SetId, ours: SetId },
    /// It says that it is of this set, and was not dealt so.
    NotDealt { index: u8 },
    /// It is among those that were given.
    Repeated { index: u8 },
}

impl fmt::Display for ShareFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAShare => write!(
                f,
                "this is not a share: one is {PREFIX} and {SYMBOLS} letters and digits after it"
            ),
            Self::Mistyped => {
                f.write_str("this share was typed or copied wrongly: its check does not add up")
            }
            Self::Foreign { index, set, ours } => write!(
                f,
                "share {index} is of the set {set}; this keystore's is {ours}"
            ),
            Self::NotDealt { index } => {
                write!(
                    f,
                    "share {index} is not the one that was dealt under this number"
                )
            }
            Self::Repeated { index } => {
                write!(
                    f,
                    "share {index} was given already: another keeper's is needed"
                )
            }
        }
    }
}

/// Why a share was not taken.
#[derive(Debug)]
pub(crate) enum ShareError {
    Fault(ShareFault),
    Failed(Error),
}

impl From<ShareFault> for ShareError {
    fn from(fault: ShareFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for ShareError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn split(
    key: &KeyBytes,
    plan: SharePlan,
    random: &SystemRandom,
) -> Result<(ShareSet, Vec<Share>), Error> {
    let mut id = [0; 8];
    fill(random, &mut id)?;
    let id = SetId(id);
    let mut system = System {
        random,
        failed: false,
    };
    let mut shares = Vec::with_capacity(plan.shares.into());
    let dealer = blahaj::Sharks(plan.threshold).dealer_rng(key.as_slice(), &mut system);
    for share in dealer.take(plan.shares.into()) {
        let mut value = KeyBytes::default();
        for (byte, y) in value.iter_mut().zip(&share.y) {
            *byte = y.0;
        }
        shares.push(Share::new(id, share.x.0, plan.threshold, value)?);
    }
    if system.failed {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "the system gives no random bytes",
        ));
    }
    let set = ShareSet {
        id,
        threshold: plan.threshold,
        commitments: shares.iter().map(Share::commitment).collect(),
    };
    Ok((set, shares))
}

fn combine(shares: &[Share], threshold: u8) -> Result<KeyBytes, Error> {
    let points: Vec<blahaj::Share> = (shares.iter())
        .filter_map(|share| {
            let mut bytes = Zeroizing::new([0; 33]);
            bytes[0] = share.index;
            bytes[1..].copy_from_slice(share.value.as_slice());
            blahaj::Share::try_from(bytes.as_slice()).ok()
        })
        .collect();
    let recovered = (blahaj::Sharks(threshold).recover(&points))
        .map(Zeroizing::new)
        .map_err(|why| Error::new(ErrorKind::DoesNotOpen, why))?;
    let mut key = KeyBytes::default();
    if recovered.len() != key.len() {
        return Err(Error::new(ErrorKind::DoesNotOpen, "the shares give no key"));
    }
    key.copy_from_slice(&recovered);
    Ok(key)
}

/// The system's generator as `blahaj` draws from it. It keeps no state that would yield the coefficients once more, as
/// a generator seeded in this process does.
struct System<'a> {
    random: &'a SystemRandom,
    failed: bool,
}

impl TryRng for System<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = Zeroizing::new([0; 4]);
        self.try_fill_bytes(bytes.as_mut_slice())?;
        Ok(u32::from_ne_bytes(*bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = Zeroizing::new([0; 8]);
        self.try_fill_bytes(bytes.as_mut_slice())?;
        Ok(u64::from_ne_bytes(*bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        // Looked at when the shares are made: none is then handed out.
        self.failed |= fill(self.random, bytes).is_err();
        Ok(())
    }
}

impl TryCryptoRng for System<'_> {}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn dealt(shares: u8, threshold: u8) -> (KeyBytes, SealedRoot, ShareSet, Vec<Share>) {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        let (sealed, set, shares) = seal(&root, SharePlan { shares, threshold }, &random).unwrap();
        (root, sealed, set, shares)
    }

    fn again(share: &Share) -> Share {
        Share::parse(share.text().expose_secret()).unwrap()
    }

    fn fault(text: &str) -> ShareFault {
        match Share::parse(text).unwrap_err() {
            ShareError::Fault(fault) => fault,
            ShareError::Failed(error) => panic!("{error}"),
        }
    }

    #[test]
    fn any_m_shares_open_and_fewer_never() {
        for (n, m) in [(2, 2), (3, 2), (5, 3), (6, 6)] {
            let (root, sealed, _, shares) = dealt(n, m);
            for chosen in 1_u32..1 << n {
                let chosen: Vec<Share> = (shares.iter().enumerate())
                    .filter(|(at, _)| chosen >> at & 1 == 1)
                    .map(|(_, share)| again(share))
                    .collect();
                match open(&sealed, &chosen) {
                    Ok(opened) => {
                        assert!(chosen.len() >= m.into(), "{} of {m}", chosen.len());
                        assert_eq!(*opened, *root);
                    }
                    Err(error) => {
                        assert!(chosen.len() < m.into(), "{} of {m}", chosen.len());
                        assert_eq!(error.kind(), ErrorKind::DoesNotOpen);
                    }
                }
            }
        }
    }

    /// Also where the count is forged: what comes out of fewer shares is no key.
    #[test]
    fn fewer_shares_that_claim_to_be_enough_open_nothing() {
        let (_, sealed, set, shares) = dealt(5, 3);
        let key = combine(&shares[..2], 2).unwrap();
        let error = sealed.open(&WrappingKey::new(&key).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DoesNotOpen);
        let mut forged = sealed;
        forged.parameters = ShareSet {
            threshold: 2,
            ..set
        }
        .encode();
        assert!(open(&forged, &shares[..2]).is_err());
    }

    #[test]
    fn a_share_is_typed_as_people_type() {
        let (_, _, set, shares) = dealt(3, 2);
        let text = shares[2].text();
        let text = text.expose_secret();
        assert_eq!(text.len(), 3 + 74 + 15);
        let sloppy = format!(
            "# share 3 of 3\n  {}\n",
            text.to_lowercase().replace('-', "  ").replace('1', "l")
        );
        let share = Share::parse(&sloppy).unwrap();
        assert_eq!((share.index(), share.threshold), (3, 2));
        assert_eq!(set.check(&share), Ok(()));
        for wrong in ["", "CS1", "CS2-00000", &text[..text.len() - 1], "hello"] {
            assert_eq!(fault(wrong), ShareFault::NotAShare, "{wrong}");
        }
        assert_eq!(fault(&format!("{text}0")), ShareFault::NotAShare);
        // Every symbol counts, whatever it is mistaken for.
        for at in (4..text.len()).filter(|at| !text[*at..].starts_with('-')) {
            let other = if text[at..].starts_with('7') {
                "8"
            } else {
                "7"
            };
            let mut typed = text.to_owned();
            typed.replace_range(at..=at, other);
            assert_eq!(fault(&typed), ShareFault::Mistyped, "{at}");
        }
    }

    #[test]
    fn a_wrong_share_is_named() {
        let (_, _, set, shares) = dealt(5, 3);
        let (_, _, other_set, other_shares) = dealt(5, 3);
        assert_eq!(
            set.check(&other_shares[1]),
            Err(ShareFault::Foreign {
                index: 2,
                set: other_set.id(),
                ours: set.id(),
            })
        );
        // Well-formed, with this set's id, and not what was dealt: a value, an index, a threshold of another share.
        let forged = |index, threshold, value: &Share| {
            let value = KeyBytes::new(**value.value);
            Share::new(set.id(), index, threshold, value).unwrap()
        };
        for (index, threshold, value) in [
            (1, 3, &other_shares[0]),
            (1, 3, &shares[1]),
            (1, 2, &shares[0]),
            (0, 3, &shares[0]),
            (6, 3, &shares[0]),
            (255, 3, &shares[0]),
        ] {
            let share = again(&forged(index, threshold, value));
            assert_eq!(set.check(&share), Err(ShareFault::NotDealt { index }));
        }
        assert_eq!(set.check(&forged(1, 3, &shares[0])), Ok(()));
    }

    #[test]
    fn a_set_comes_back_from_its_record() {
        let (_, sealed, set, _) = dealt(32, 17);
        assert_eq!(ShareSet::decode(&sealed.parameters).unwrap(), set);
        for end in 0..sealed.parameters.len() {
            let cut = ShareSet::decode(&sealed.parameters[..end]);
            // Cut between two commitments it is a set of fewer shares, which the wrap does not open for.
            assert!(cut.is_err() || (end - 9) % 32 == 0, "{end}");
        }
    }

    /// A product in GF(2^8) by the polynomial of AES (FIPS 197 4.2), which is the field's of the shares.
    fn product(one: u8, other: u8) -> u8 {
        let mut product = 0;
        for bit in (0..8).rev() {
            let carry = if product & 0x80 == 0 { 0 } else { 0x1b };
            product = (product << 1) ^ carry ^ (if other >> bit & 1 == 1 { one } else { 0 });
        }
        product
    }

    fn quotient(one: u8, other: u8) -> u8 {
        // The units are a group of 255: the 254th power is the inverse.
        (0..254).fold(one, |power, _| product(power, other))
    }

    /// Lagrange's polynomials for values at these places, each 1 at its own place and 0 at the others, with the constant
    /// first.
    fn basis<const N: usize>(places: [u8; N]) -> [[u8; N]; N] {
        places.map(|x| {
            let mut basis = [0; N];
            basis[0] = 1;
            for zero in places.into_iter().filter(|zero| *zero != x) {
                // Times (X - zero) / (x - zero).
                let scale = quotient(1, x ^ zero);
                for power in (0..N).rev() {
                    let below = power.checked_sub(1).map_or(0, |below| basis[below]);
                    basis[power] = product(scale, below ^ product(zero, basis[power]));
                }
            }
            basis
        })
    }

    /// The coefficient of the polynomial that has these values where the basis says.
    fn coefficient<const N: usize>(basis: &[[u8; N]; N], values: [u8; N], power: usize) -> u8 {
        (basis.iter().zip(values)).fold(0, |sum, (basis, value)| sum ^ product(basis[power], value))
    }

    /// How often each byte was seen.
    struct Counts([u32; 256]);

    impl Counts {
        fn of(bytes: impl IntoIterator<Item = u8>) -> Self {
            let mut counts = [0; 256];
            for byte in bytes {
                counts[usize::from(byte)] += 1;
            }
            Self(counts)
        }

        /// Whether every value is as likely as every other, by chi-squared. With 255 degrees of freedom a fair
        /// generator exceeds 400 once in 10^8 times.
        fn are_even(&self) -> bool {
            let total: u32 = self.0.iter().sum();
            let expected = f64::from(total) / 256.0;
            let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
            self.0.iter().map(square).sum::<f64>() < 400.0
        }
    }

    /// Everything that two of three shares, whose threshold is three, say of a key byte lies in the line through them,
    /// and a line is its slope and its value at 0. So these, and each share by itself, are spread evenly, whatever the
    /// key, exactly where the two coefficients are any of 256 values each, zero included.
    fn two_say_nothing(triples: &[[u8; 3]]) -> bool {
        let even =
            |figure: &dyn Fn(&[u8; 3]) -> u8| Counts::of(triples.iter().map(figure)).are_even();
        let even_lines = |[one, other]: [u8; 2]| {
            let lines = basis([one, other]);
            let ends = |triple: &[u8; 3]| [one, other].map(|x| triple[usize::from(x) - 1]);
            (0..2).all(|power| even(&|triple| coefficient(&lines, ends(triple), power)))
        };
        (0..3).all(|at| even(&|triple| triple[at]))
            && [[1, 2], [1, 3], [2, 3]].into_iter().all(even_lines)
    }

    fn triples(key: u8, splits: usize) -> Vec<[u8; 3]> {
        let random = SystemRandom::new();
        let plan = SharePlan {
            shares: 3,
            threshold: 3,
        };
        let key = KeyBytes::new([key; 32]);
        let mut triples = Vec::new();
        for _ in 0..splits {
            let (_, shares) = split(&key, plan, &random).unwrap();
            triples.extend((0..32).map(|at| [0, 1, 2].map(|share| shares[share].value[at])));
        }
        triples
    }

    #[test]
    fn fewer_shares_than_the_threshold_say_nothing() {
        for key in [0x00, 0x5a, 0xff] {
            assert!(two_say_nothing(&triples(key, 3000)), "{key:#x}");
        }
    }

    /// Each coefficient is any of all 256 values, zero like any other, and none follows from another: not from the
    /// other one of its byte, nor from that of the byte before.
    #[test]
    fn coefficients_are_all_values_alike() {
        let parabola = basis([1, 2, 3]);
        let found: Vec<[u8; 3]> = (triples(0x5a, 3000).into_iter())
            .map(|triple| [0, 1, 2].map(|power| coefficient(&parabola, triple, power)))
            .collect();
        assert!(found.iter().all(|[key, ..]| *key == 0x5a));
        for power in [1, 2] {
            let counts = Counts::of(found.iter().map(|it| it[power]));
            assert!(counts.0[0] > 0 && counts.are_even(), "of x^{power}");
            let steps = found.windows(2).map(|it| it[0][power] ^ it[1][power]);
            assert!(Counts::of(steps).are_even(), "of x^{power} and the next");
        }
        assert!(Counts::of(found.iter().map(|[_, one, two]| one ^ two)).are_even());
    }

    /// The faults that other crates had, and some that they might have had, do not pass: coefficients that are never
    /// zero (RUSTSEC-2024-0398), the highest alone never zero, odd ones only, one for two bytes.
    #[test]
    fn a_biased_dealer_is_found_out() {
        let random = SystemRandom::new();
        let mut bytes = vec![0; 4 * 96_000];
        fill(&random, &mut bytes).unwrap();
        let deal = |coefficients: &mut dyn Iterator<Item = [u8; 2]>| -> Vec<[u8; 3]> {
            (coefficients.take(96_000))
                .map(|[one, two]| {
                    [1, 2, 3].map(|x| 0x5a ^ product(x, one) ^ product(product(x, x), two))
                })
                .collect()
        };
        let any = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        assert!(two_say_nothing(&deal(&mut any())));
        assert!(!two_say_nothing(&deal(
            &mut any().filter(|[one, two]| *one != 0 && *two != 0)
        )));
        assert!(!two_say_nothing(&deal(
            &mut any().filter(|[_, two]| *two != 0)
        )));
        assert!(!two_say_nothing(&deal(
            &mut any().map(|it| it.map(|byte| byte | 1))
        )));
        assert!(!two_say_nothing(&deal(
            &mut any().map(|[one, _]| [one, one])
        )));
    }
}
