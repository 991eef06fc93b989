//! Why agent and broker do not let each other in, for people: what a failed connection comes to and what helps.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Of the causes of a failed connection the first that says so; `None` for others, as of a broker that is not there.
pub(super) fn rejection(error: &(dyn Error + 'static), with_tls: bool) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return of_tls(error);
        }
        let io_error: Option<&io::Error> = error.downcast_ref();
        let ended = |kind| matches!(kind, io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
        if !with_tls && io_error.is_some_and(|error| ended(error.kind())) {
            return Some(
                "it answers and ends the connection at once; a broker with TLS is reached by mqtts://",
            );
        }
        // What an I/O error wraps is not among its sources.
        let wrapped = io_error.and_then(io::Error::get_ref).map(|error| error as &(dyn Error + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    None
}

fn of_tls(error: &rustls::Error) -> Option<&'static str> {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    Some(match error {
        AlertReceived(Alert::CertificateRevoked) => {
            "it says that this agent's certificate is revoked; `dkt keys add` makes new keys"
        }
        AlertReceived(Alert::CertificateExpired) => {
            "it says that this agent's certificate, or its own list of revoked ones, has ended; `dkt keys list` tells \
             which"
        }
        AlertReceived(Alert::UnknownCA) => {
            "it does not know the authority of this agent's certificate; both must be of one folder of `dkt keys`"
        }
        AlertReceived(
            Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateRequired
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => "it does not accept this agent's certificate; both must be of one folder of `dkt keys`",
        InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is not of the authority in `exchange.tls.ca`; both must be of one folder of `dkt keys`"
        }
        InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name; call it in `exchange.broker` as `dkt keys init --broker` did"
        }
        InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => {
            "its certificate is not good today; `dkt keys renew --broker` makes another, unless it is the clock that is \
             wrong"
        }
        InvalidMessage(_) => "it does not speak TLS there; a broker without is reached by mqtt://",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_however_deep_it_is_wrapped() {
        let revoked = || rustls::Error::AlertReceived(AlertDescription::CertificateRevoked);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, revoked());
        let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, revoked()));
        for error in [&revoked() as &(dyn Error + 'static), &wrapped, &twice] {
            assert!(rejection(error, true).is_some_and(|reason| reason.contains("revoked")), "{error}");
        }
    }

    #[test]
    fn a_broker_that_is_not_there_rejects_nobody() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(rejection(&refused, false), None);
        // With TLS its cause would have been said.
        assert_eq!(rejection(&reset, true), None);
        assert!(rejection(&reset, false).is_some_and(|reason| reason.contains("mqtts://")));
    }
}
