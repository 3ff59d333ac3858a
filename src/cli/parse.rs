//! Values of flags that are read relative to now, and other small ones.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::duration;

/// A point in the past: a length of time ago, or an RFC 3339 time. In milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub u64);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = duration(text) {
            return Ok(Self(now_ms().saturating_sub(ms(ago))));
        }
        At::from_str(text).map(|at| Self(at.0)).map_err(|_| {
            format!("{text:?} is neither a length of time (10m, 2h) nor an RFC 3339 time")
        })
    }
}

/// An RFC 3339 time, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub u64);

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an RFC 3339 time such as 2026-01-31T08:00:00Z");
        let time: Timestamp = text.parse().map_err(|_| wrong())?;
        u64::try_from(time.as_millisecond()).map(Self).map_err(|_| wrong())
    }
}

/// A limit, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap(pub Option<u32>);

impl FromStr for Cap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => match number.parse() {
                Ok(number) => Ok(Self(Some(number))),
                Err(_) => Err(format!("{text:?} is neither a number nor `none`")),
            },
        }
    }
}

/// Whole milliseconds.
pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// This host's clock, in milliseconds since the epoch.
pub(super) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        assert_eq!("1970-01-01T00:00:01.5Z".parse(), Ok(At(1500)));
        assert_eq!("1970-01-01T01:00:01+01:00".parse(), Ok(At(1000)));
        assert!("tomorrow".parse::<At>().is_err() && "1969-01-01T00:00:00Z".parse::<At>().is_err());
        let Since(hour_ago) = "1h".parse().unwrap();
        assert!(now_ms() - hour_ago >= 3_600_000);
        assert!("yesterday".parse::<Since>().is_err());
    }

    #[test]
    fn limits() {
        assert_eq!("none".parse(), Ok(Cap(None)));
        assert_eq!("0".parse(), Ok(Cap(Some(0))));
        assert!("-1".parse::<Cap>().is_err());
    }
}
