//! The time from a server (SNTP, RFC 5905 §14), as one request and one reply.
//!
//! The reply is not authenticated. It has to repeat 64 random bits of the request, so that only who
//! sees the network can forge one; and what it can do harm with is bounded by the floor
//! ([`Clock`](crate::clock::Clock)).

/// Where time servers listen.
pub(crate) const PORT: u16 = 123;

/// Bytes of a packet without extensions.
pub(crate) const PACKET: usize = 48;

/// 1970 in seconds since 1900.
const UNIX_EPOCH: u64 = 2_208_988_800;

/// Why a reply is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Shorter than a packet.
    Short,
    /// Not a server's packet, or not an answer to this request.
    Foreign,
    /// The server has no time itself, or wants to be left alone.
    NoTime,
}

/// A request that carries these bits.
pub(crate) fn request(nonce: [u8; 8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    // No warning, version 4, mode 3: client.
    packet[0] = 0b00_100_011;
    packet[40..].copy_from_slice(&nonce);
    packet
}

/// ms since 1970 UTC, from the reply to the request with these bits.
pub(crate) fn reply(nonce: [u8; 8], bytes: &[u8]) -> Result<i64, Reply> {
    let packet = bytes.first_chunk::<PACKET>().ok_or(Reply::Short)?;
    let [head, stratum, ..] = *packet;
    let (leap, mode) = (head >> 6, head & 0b111);
    if mode != 4 || packet[24..32] != nonce {
        return Err(Reply::Foreign);
    }
    let [.., s0, s1, s2, s3, f0, f1, f2, f3] = *packet;
    let (seconds, fraction) = (
        u32::from_be_bytes([s0, s1, s2, s3]),
        u32::from_be_bytes([f0, f1, f2, f3]),
    );
    if leap == 3 || !(1..=15).contains(&stratum) || (seconds, fraction) == (0, 0) {
        return Err(Reply::NoTime);
    }
    // The count of seconds begins anew in 2036; what looks like the years before 1968 is after it.
    let era = if seconds & 0x8000_0000 == 0 {
        1 << 32
    } else {
        0
    };
    let since_1970 = (u64::from(seconds) + era).checked_sub(UNIX_EPOCH);
    let since_1970 = since_1970.ok_or(Reply::NoTime)?;
    let ms = since_1970 * 1000 + ((u64::from(fraction) * 1000) >> 32);
    i64::try_from(ms).map_err(|_| Reply::NoTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 8] = *b"12345678";

    /// A good reply at 2026-11-25T12:00:00.500Z.
    fn good() -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        packet[0] = 0b00_100_100;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&NONCE);
        let seconds = u32::try_from(1_795_608_000 + UNIX_EPOCH).unwrap();
        packet[40..44].copy_from_slice(&seconds.to_be_bytes());
        packet[44..].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
        packet
    }

    #[test]
    fn a_good_reply_gives_the_time() {
        assert_eq!(reply(NONCE, &good()), Ok(1_795_608_000_500));
        assert_eq!(request(NONCE)[0], 0x23);
    }

    #[test]
    fn the_second_era_follows_the_first() {
        let mut packet = good();
        packet[40..].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        // 2036-02-07T06:28:17Z
        assert_eq!(reply(NONCE, &packet), Ok(2_085_978_497_000));
    }

    #[test]
    fn other_replies_are_refused() {
        let with = |place: usize, byte: u8| {
            let mut packet = good();
            packet[place] = byte;
            reply(NONCE, &packet)
        };
        assert_eq!(reply(NONCE, &good()[..47]), Err(Reply::Short));
        assert_eq!(with(0, 0b00_100_011), Err(Reply::Foreign), "a client");
        assert_eq!(with(25, 0), Err(Reply::Foreign), "another request");
        assert_eq!(with(0, 0b11_100_100), Err(Reply::NoTime), "unsynchronised");
        assert_eq!(with(1, 0), Err(Reply::NoTime), "kiss of death");
        assert_eq!(with(1, 16), Err(Reply::NoTime), "unsynchronised");
        let mut packet = good();
        packet[40..].fill(0);
        assert_eq!(reply(NONCE, &packet), Err(Reply::NoTime), "no time");
    }
}
