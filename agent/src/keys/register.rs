//! What a lab's authority has issued: `keys.json`. Pure: files are [`super::folder`]'s.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::certificate::{Serial, Validity};
use super::{Holder, RENEW_WITHIN_DAYS};

/// Version of the file that this build writes and reads.
pub const VERSION: u32 = 1;

/// Times are in whole seconds since 1970, as certificates have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub version: u32,
    /// End of the authority, which no certificate outlives.
    pub authority_until_s: i64,
    /// Of the latest list of revoked certificates.
    pub crl: Crl,
    /// Where agents reach the broker.
    pub addresses: Vec<String>,
    /// In the order in which they were issued.
    pub issued: Vec<Issued>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crl {
    pub number: u64,
    pub from_s: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    pub holder: Holder,
    pub serial: Serial,
    pub until_s: i64,
    pub revoked_s: Option<i64>,
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    EndsSoon,
    Ended,
    /// There is a newer one for the same key; this one is good until its end.
    Replaced,
    Revoked,
}

impl Register {
    pub fn new(authority_until: OffsetDateTime, addresses: Vec<String>) -> Self {
        Register {
            version: VERSION,
            authority_until_s: authority_until.unix_timestamp(),
            crl: Crl::default(),
            addresses,
            issued: Vec::new(),
        }
    }

    /// The certificate that a holder uses now: the latest, if it is not revoked.
    pub fn current(&self, holder: &Holder) -> Option<&Issued> {
        self.issued
            .iter()
            .rfind(|issued| issued.holder == *holder)
            .filter(|issued| issued.revoked_s.is_none())
    }

    /// Those who hold a certificate, in order.
    pub fn holders(&self) -> Vec<&Holder> {
        let mut holders: Vec<&Holder> = self.issued.iter().map(|issued| &issued.holder).collect();
        holders.sort();
        holders.dedup();
        holders.retain(|holder| self.current(holder).is_some());
        holders
    }

    /// Holders whose certificates have ended or will within [`RENEW_WITHIN_DAYS`].
    pub fn ending(&self, now: OffsetDateTime) -> Vec<Holder> {
        let ends = |holder: &&Holder| {
            let standing = self.current(holder).map(|issued| self.standing(issued, now));
            matches!(standing, Some(Standing::EndsSoon | Standing::Ended))
        };
        self.holders().into_iter().filter(ends).cloned().collect()
    }

    pub fn standing(&self, issued: &Issued, now: OffsetDateTime) -> Standing {
        let left = issued.until_s - now.unix_timestamp();
        let is_current = self.current(&issued.holder).is_some_and(|current| current.serial == issued.serial);
        match () {
            () if issued.revoked_s.is_some() => Standing::Revoked,
            () if left <= 0 => Standing::Ended,
            () if !is_current => Standing::Replaced,
            () if left <= Duration::days(RENEW_WITHIN_DAYS.into()).whole_seconds() => Standing::EndsSoon,
            () => Standing::Good,
        }
    }

    pub fn issue(&mut self, holder: Holder, serial: Serial, validity: Validity) {
        let until_s = validity.until.unix_timestamp();
        self.issued.push(Issued { holder, serial, until_s, revoked_s: None });
    }

    /// Revokes all certificates of a holder, replaced ones too.
    pub fn revoke(&mut self, holder: &Holder, now: OffsetDateTime) {
        for issued in self.issued.iter_mut().filter(|issued| issued.holder == *holder) {
            issued.revoked_s.get_or_insert(now.unix_timestamp());
        }
    }

    /// The next list's number and beginning. It begins later than the one before, even if both are made within a
    /// second: of two lists that OpenSSL knows it takes the one that began last.
    pub fn next_crl(&mut self, validity: Validity) -> Crl {
        let from_s = validity.from.unix_timestamp().max(self.crl.from_s + 1);
        self.crl = Crl { number: self.crl.number + 1, from_s };
        self.crl
    }

    /// Serial numbers of revoked certificates, and when they were revoked.
    pub fn revoked(&self) -> Vec<(Serial, OffsetDateTime)> {
        let revoked =
            self.issued.iter().filter_map(|issued| Some((issued.serial, moment(issued.revoked_s?))));
        revoked.collect()
    }
}

/// Seconds since 1970 as a time; those that no calendar has are 1970 itself.
pub fn moment(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
