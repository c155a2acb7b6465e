//! The log digest: one hash over everything up to a position.

use confold_model::ids::{Hash, Position, Time};

/// d(n) = H(`10` d(n-1) u64 n, i64 record time in ms, record bytes); d(-1) is [`Hash::ZERO`].
///
/// It needs no fold: two logs with the same d(n) hold the same records with the same times up to n.
pub fn log_digest(before: Hash, position: Position, time: Time, record: &[u8]) -> Hash {
    let mut preimage = Vec::with_capacity(49 + record.len());
    preimage.push(0x10);
    preimage.extend_from_slice(before.as_bytes());
    preimage.extend_from_slice(&position.0.to_be_bytes());
    preimage.extend_from_slice(&time.0.to_be_bytes());
    preimage.extend_from_slice(record);
    Hash::of(&preimage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_of_the_golden_vectors() {
        let mut before = Hash::ZERO;
        let mut checked = 0;
        for line in include_str!("tests/log_digest.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let [position, time, record, digest]: [&str; 4] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let position = Position(position.parse().unwrap());
            before = log_digest(
                before,
                position,
                Time(time.parse().unwrap()),
                &hex::decode(record).unwrap(),
            );
            assert_eq!(before.to_string(), digest, "d({position})");
            checked += 1;
        }
        assert_eq!(checked, 20);
    }

    #[test]
    fn position_time_and_bytes_each_change_the_digest() {
        let base = log_digest(Hash::ZERO, Position(1), Time(2), b"ab");
        assert_ne!(base, log_digest(Hash::of(b""), Position(1), Time(2), b"ab"));
        assert_ne!(base, log_digest(Hash::ZERO, Position(2), Time(2), b"ab"));
        assert_ne!(base, log_digest(Hash::ZERO, Position(1), Time(3), b"ab"));
        assert_ne!(base, log_digest(Hash::ZERO, Position(1), Time(2), b"abc"));
    }
}
