//! Signed messages: COSE_Sign1 (RFC 9052, section 4.2) with Ed25519 (RFC 9053, section 2.2) over a payload, its topic
//! and a number. Pure.
//!
//! Only the form of `docs/protocol.cddl` is read. What is not signed, or not understood, would be an attacker's to
//! choose, so there is no room for it: the unprotected header is empty, and the protected one has three labels.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Most bytes that an envelope adds to a message.
pub const ENVELOPE_BYTES: usize = 192;
/// Tag 18, COSE_Sign1 (RFC 9052, section 2). No message that is not signed begins with it: those are maps.
pub const SIGNED_HEAD: u8 = 0xd2;

/// Label of the number in the protected header: of the range for private use (RFC 9052, section 11.1).
pub const NUMBER_LABEL: i64 = -65537;
/// RFC 9052, section 3.1: the labels of algorithm and key.
const ALGORITHM_LABEL: i64 = 1;
const KEY_LABEL: i64 = 4;
/// EdDSA (RFC 9053, section 2.2), as CBOR has it: -8 is 0x27.
const EDDSA: i64 = -8;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("expected a signed message: tag 18 around an array of four")]
    Array,
    #[error("protected header: expected the labels 1, 4 and {NUMBER_LABEL}, each once, and nothing else")]
    Header,
    #[error("expected the algorithm {EDDSA} (EdDSA)")]
    Algorithm,
    #[error("expected an empty unprotected header")]
    Unprotected,
    #[error("expected a payload in the envelope, as a byte string")]
    Payload,
    #[error("expected a signature of 64 bytes, and nothing behind it")]
    SignatureLength,
}

/// An envelope that has been taken apart, and not been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    protected: &'a [u8],
    /// Whose key is said to have signed: the sender's name.
    pub key_id: &'a [u8],
    pub number: u64,
    pub payload: &'a [u8],
    signature: &'a [u8; 64],
}

/// Puts a message into an envelope: `payload` of `sender`, to be published under `topic`, with a number that the sender
/// has never used. At most [`ENVELOPE_BYTES`] longer than the payload, for names of up to 64 bytes.
pub fn seal(key: &SigningKey, sender: &str, topic: &str, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut protected = Vec::with_capacity(96);
    head(&mut protected, MAP, 3);
    // In the order of deterministic encoding (RFC 8949, section 4.2.1).
    integer(&mut protected, ALGORITHM_LABEL);
    integer(&mut protected, EDDSA);
    integer(&mut protected, KEY_LABEL);
    string(&mut protected, BYTES, sender.as_bytes());
    integer(&mut protected, NUMBER_LABEL);
    head(&mut protected, UNSIGNED, number);
    let signature = key.sign(&to_be_signed(&protected, topic, payload));
    let mut sealed = Vec::with_capacity(payload.len() + ENVELOPE_BYTES);
    sealed.push(SIGNED_HEAD);
    head(&mut sealed, ARRAY, 4);
    string(&mut sealed, BYTES, &protected);
    head(&mut sealed, MAP, 0);
    string(&mut sealed, BYTES, payload);
    string(&mut sealed, BYTES, &signature.to_bytes());
    sealed
}

impl<'a> Envelope<'a> {
    /// Takes an envelope apart. Allocates nothing.
    ///
    /// # Errors
    /// [`EnvelopeError`] if it does not have the form that [`seal`] writes. Labels may come in any order, and lengths
    /// and numbers in any definite form.
    pub fn read(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let rest = bytes.strip_prefix(&[SIGNED_HEAD]).ok_or(EnvelopeError::Array)?;
        let mut reader = Reader { rest };
        (reader.head() == Some((ARRAY, 4))).then_some(()).ok_or(EnvelopeError::Array)?;
        let protected = reader.bytes().ok_or(EnvelopeError::Header)?;
        (reader.head() == Some((MAP, 0))).then_some(()).ok_or(EnvelopeError::Unprotected)?;
        let payload = reader.bytes().ok_or(EnvelopeError::Payload)?;
        let signature =
            reader.bytes().and_then(|s| s.try_into().ok()).ok_or(EnvelopeError::SignatureLength)?;
        if !reader.rest.is_empty() {
            return Err(EnvelopeError::SignatureLength);
        }
        let (key_id, number) = read_protected(protected)?;
        Ok(Envelope { protected, key_id, number, payload, signature })
    }

    /// Whether `key` has signed this for `topic`. Strict (`verify_strict`): one message has one signature, and keys of
    /// small order have none.
    pub fn is_signed_by(&self, key: &VerifyingKey, topic: &str) -> bool {
        let signed = to_be_signed(self.protected, topic, self.payload);
        key.verify_strict(&signed, &Signature::from_bytes(self.signature)).is_ok()
    }
}

/// Key id and number.
fn read_protected(protected: &[u8]) -> Result<(&[u8], u64), EnvelopeError> {
    let mut reader = Reader { rest: protected };
    let (mut algorithm, mut key_id, mut number) = (None, None, None);
    let is_map = reader.head() == Some((MAP, 3));
    for _ in 0..if is_map { 3 } else { 0 } {
        // Of three labels that are known, one that comes twice leaves another out.
        match reader.integer().ok_or(EnvelopeError::Header)? {
            ALGORITHM_LABEL => algorithm = reader.integer(),
            KEY_LABEL => key_id = reader.bytes(),
            NUMBER_LABEL => number = reader.unsigned(),
            _ => return Err(EnvelopeError::Header),
        }
    }
    match (algorithm, key_id, number) {
        (Some(EDDSA), Some(key_id), Some(number)) if reader.rest.is_empty() => Ok((key_id, number)),
        (Some(other), Some(_), Some(_)) if other != EDDSA => Err(EnvelopeError::Algorithm),
        _ => Err(EnvelopeError::Header),
    }
}

/// `Sig_structure` (RFC 9052, section 4.4); the topic is the external data.
fn to_be_signed(protected: &[u8], topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut signed = Vec::with_capacity(protected.len() + topic.len() + payload.len() + 32);
    head(&mut signed, ARRAY, 4);
    string(&mut signed, TEXT, b"Signature1");
    string(&mut signed, BYTES, protected);
    string(&mut signed, BYTES, topic.as_bytes());
    string(&mut signed, BYTES, payload);
    signed
}

/// Initial byte and argument of an item, in the shortest form (RFC 8949, section 3).
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (short, n_more) = match argument {
        0..24 => (argument as u8, 0),
        24..0x100 => (24, 1),
        0x100..0x1_0000 => (25, 2),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | short);
    out.extend_from_slice(&bytes[8 - n_more..]);
}

fn integer(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => head(out, UNSIGNED, value),
        Err(_) => head(out, NEGATIVE, (-1 - value) as u64),
    }
}

fn string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    head(out, major, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads items of definite length from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    fn head(&mut self) -> Option<(u8, u64)> {
        let initial = self.take(1)?[0];
        let argument = match initial & 0x1f {
            short @ 0..24 => u64::from(short),
            more @ 24..28 => self.take(1 << (more - 24))?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
            _ => return None,
        };
        Some((initial >> 5, argument))
    }

    fn unsigned(&mut self) -> Option<u64> {
        self.head().and_then(|(major, n)| (major == UNSIGNED).then_some(n))
    }

    fn integer(&mut self) -> Option<i64> {
        match self.head()? {
            (UNSIGNED, n) => i64::try_from(n).ok(),
            (NEGATIVE, n) => i64::try_from(n).ok().map(|n| -1 - n),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        match self.head()? {
            (BYTES, n) => self.take(usize::try_from(n).ok()?),
            _ => None,
        }
    }
}
