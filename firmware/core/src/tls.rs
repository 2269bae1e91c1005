//! What both dialers need around Mbed TLS: a date, and what a refused certificate means.

/// A moment in UTC, as calendars have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Such as 2026.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Civil {
    /// From ms since 1970 UTC, after Hinnant's `civil_from_days`.
    pub fn of(utc_ms: i64) -> Self {
        let small = |number: i64| u8::try_from(number).unwrap_or(0);
        let seconds = utc_ms.div_euclid(1000);
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 0000-03-01; years that begin in March have their leap day at the end.
        let days = days + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: year + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day),
            hour: small(of_day / 3600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
        }
    }
}

/// Why a certificate was refused: the first of the bits that `mbedtls_ssl_get_verify_result` set
/// that has a name. Nothing if none is set: then it was not the certificate.
pub fn certificate_words(flags: u32) -> Option<&'static str> {
    const WORDS: [(u32, &str); 7] = [
        (
            0x08,
            "the certificate is not signed by a trusted authority, see broker.ca_file",
        ),
        (0x04, "the certificate is for another host, see broker.host"),
        (0x01, "the certificate has expired"),
        (
            0x0200,
            "the certificate is not valid yet; or the node's clock is behind",
        ),
        (0x02, "the certificate is revoked"),
        (0x40, "the server shows no certificate"),
        (!0, "the certificate is not one for servers, or too weak"),
    ];
    // All bits: the server showed none, or nothing was verified.
    if flags == 0 || flags == !0 {
        return None;
    }
    let found = WORDS.iter().find(|(bit, _)| flags & bit != 0)?;
    Some(found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (utc_ms, date) in [
            (0, (1970, 1, 1, 0, 0, 0)),
            (951_827_696_789, (2000, 2, 29, 12, 34, 56)),
            (1_795_651_199_000, (2026, 11, 25, 23, 59, 59)),
            (4_107_542_400_000, (2100, 3, 1, 0, 0, 0)),
            (-1, (1969, 12, 31, 23, 59, 59)),
        ] {
            let civil = Civil::of(utc_ms);
            let found = (
                civil.year,
                civil.month,
                civil.day,
                civil.hour,
                civil.minute,
                civil.second,
            );
            assert_eq!(found, date, "{utc_ms}");
        }
    }
}
