//! Certificates out of parameters: no file, no clock, and no random number but those in a key and in its signatures.
//!
//! X.509 as in RFC 5280. Keys are P-256, which every board signs with quickly and TLS 1.2 and 1.3 both know.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate, X509Error};

use super::{Holder, KeysError};

/// What is issued is good from this long before, for boards whose clocks are behind.
const CLOCK_SLACK: Duration = Duration::days(1);

/// A serial number: positive and of 16 bytes, whatever it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(u128);

impl Serial {
    pub fn of(random: [u8; 16]) -> Self {
        Serial(u128::from_be_bytes(random) & (u128::MAX >> 1) | (1 << 126))
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl TryFrom<String> for Serial {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Serial)
    }
}

impl From<Serial> for SerialNumber {
    fn from(serial: Serial) -> Self {
        SerialNumber::from_slice(&serial.0.to_be_bytes())
    }
}

/// From when until when something is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

impl Validity {
    /// From now on for so many days, and no longer than until `bound`.
    pub fn of_days(now: OffsetDateTime, days: u32, bound: Option<OffsetDateTime>) -> Self {
        let until = now + Duration::days(days.into());
        Validity { from: now - CLOCK_SLACK, until: bound.map_or(until, |bound| until.min(bound)) }
    }
}

/// How agents reach a broker: a DNS name or an IP address.
///
/// # Errors
/// [`KeysError::Address`].
pub(super) fn address(text: &str) -> Result<SanType, KeysError> {
    let refused = || KeysError::Address { found: text.to_owned() };
    match ServerName::try_from(text).map_err(|_| refused())? {
        ServerName::IpAddress(ip) => Ok(SanType::IpAddress(IpAddr::from(ip))),
        _ => Ok(SanType::DnsName(Ia5String::try_from(text).map_err(|_| refused())?)),
    }
}

fn parameters(common_name: &str, serial: Serial, validity: Validity) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.serial_number = Some(serial.into());
    parameters.not_before = validity.from;
    parameters.not_after = validity.until;
    parameters
}

/// The certificate of an authority that signs others and lists of revoked ones, in PEM.
///
/// # Errors
/// [`KeysError::Make`].
pub fn authority(
    common_name: &str,
    key: &KeyPair,
    serial: Serial,
    validity: Validity,
) -> Result<String, KeysError> {
    let mut parameters = parameters(common_name, serial, validity);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters.self_signed(key)?.pem())
}

/// The certificate of one who holds `key`, in PEM: to be connected to at `addresses` for a broker, to connect with for
/// the others.
///
/// # Errors
/// [`KeysError::Address`], [`KeysError::Make`].
pub fn certificate(
    holder: &Holder,
    addresses: &[String],
    key: &KeyPair,
    serial: Serial,
    validity: Validity,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, KeysError> {
    let mut parameters = parameters(&holder.common_name(), serial, validity);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    parameters.extended_key_usages = match holder {
        Holder::Broker => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Holder::Agent(_) | Holder::Bridge(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    parameters.subject_alt_names = addresses.iter().map(|a| address(a)).collect::<Result<_, _>>()?;
    Ok(parameters.signed_by(key, issuer)?.pem())
}

/// The list of revoked certificates and of when they were, in PEM.
///
/// # Errors
/// [`KeysError::Make`].
pub fn revocation_list(
    number: u64,
    validity: Validity,
    revoked: &[(Serial, OffsetDateTime)],
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, KeysError> {
    let revoked = revoked.iter().map(|&(serial, at)| RevokedCertParams {
        serial_number: serial.into(),
        revocation_time: at,
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: validity.from,
        next_update: validity.until,
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(issuer)?.pem()?)
}

/// The Ed25519 key of a seed, written as PKCS #8 version 1 (RFC 8410, section 7): OpenSSL 3.0 does not read version 2,
/// which ring writes.
///
/// # Errors
/// [`KeysError::Make`].
pub fn signing_key(seed: [u8; 32]) -> Result<KeyPair, KeysError> {
    // Version 0, id-Ed25519, and an octet string within an octet string.
    const HEAD: [u8; 16] = [0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 34, 4, 32];
    Ok(KeyPair::try_from([&HEAD[..], &seed].concat())?)
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The first, which is the one that mosquitto takes; empty if there is none.
    pub common_name: String,
    pub validity: Validity,
}

/// # Errors
/// [`X509Error`] if the bytes are no certificate.
pub fn identity(der: &[u8]) -> Result<Identity, X509Error> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| match error {
        x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
        x509_parser::nom::Err::Incomplete(_) => X509Error::InvalidCertificate,
    })?;
    let common_name = certificate.subject().iter_common_name().next();
    let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default();
    let validity = certificate.validity();
    Ok(Identity {
        common_name: common_name.to_owned(),
        validity: Validity {
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_cut_off_is_refused() {
        let key = KeyPair::generate().unwrap();
        let validity = Validity::of_days(OffsetDateTime::UNIX_EPOCH, 2, None);
        let pem = authority("lab", &key, Serial::of([255; 16]), validity).unwrap();
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
        let expected = Identity { common_name: "lab".to_owned(), validity };
        assert_eq!(identity(&der).unwrap(), expected);
        for n in 0..der.len() {
            assert!(identity(&der[..n]).is_err(), "{n} bytes of {}", der.len());
        }
    }

    #[test]
    fn signing_keys_are_those_of_their_seeds() {
        // RFC 8032, section 7.1, test 1.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = signing_key(seed.try_into().unwrap()).unwrap();
        assert_eq!(key.public_key_raw(), public);
        assert_eq!(key.serialized_der().len(), 48);
    }

    #[test]
    fn serial_numbers_are_positive_and_of_sixteen_bytes() {
        for byte in [0, 0x40, 0x80, 255] {
            let serial = Serial::of([byte; 16]);
            assert!((0x40..0x80).contains(&SerialNumber::from(serial).to_bytes()[0]), "{serial}");
            assert_eq!(Serial::try_from(serial.to_string()).unwrap(), serial);
        }
    }
}
