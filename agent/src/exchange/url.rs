//! URLs of brokers.

use super::ExchangeError;

/// Host and port of `mqtt://host[:port]` or `mqtts://host[:port]`.
///
/// # Errors
/// [`ExchangeError::Url`], [`ExchangeError::Credentials`].
pub(super) fn parse_url(url: &str) -> Result<(String, u16), ExchangeError> {
    let refused = || ExchangeError::Url { found: url.to_owned() };
    let (rest, default_port) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (rest, 1883),
        (_, Some(rest)) => (rest, 8883),
        _ => return Err(refused()),
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains('@') {
        return Err(ExchangeError::Credentials);
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refused())?),
        _ => (rest, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('/') { Err(refused()) } else { Ok((host.to_owned(), port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_their_default_ports() {
        let check = |url: &str, host: &str, port: u16| {
            assert_eq!(parse_url(url).unwrap(), (host.to_owned(), port), "{url}");
        };
        check("mqtt://127.0.0.1:1884", "127.0.0.1", 1884);
        check("mqtt://broker", "broker", 1883);
        check("mqtts://lab.example/", "lab.example", 8883);
        check("mqtt://[::1]:1885", "::1", 1885);
        check("mqtt://[::1]", "::1", 1883);
        for url in
            ["broker:1883", "http://broker", "mqtt://", "mqtt://a:b", "mqtt://a/b", "mqtt://user:secret@a"]
        {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }
}
