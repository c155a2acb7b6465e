//! The log digest: one hash over everything up to a position.

/// The model's own: it needs no fold, and two logs with the same d(n) hold the same records with the same times up to n.
pub use confold_model::digest::log_digest;

#[cfg(test)]
mod tests {
    use super::*;
    use confold_model::ids::{Hash, Position, Time};

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
