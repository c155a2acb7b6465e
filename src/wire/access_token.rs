//! Bearer tokens as people hand them around: `cft_`, the id in 16 hex digits, the secret in 64.

use confold_model::policy;
use std::fmt;

const PREFIX: &str = "cft_";

/// A token with its secret. Shows its id and never the secret, unless it is asked for its text by name.
#[derive(Clone)]
pub struct AccessToken {
    id: [u8; 8],
    secret: [u8; 32],
}

impl AccessToken {
    /// Both are to be random bytes.
    pub fn new(id: [u8; 8], secret: [u8; 32]) -> AccessToken {
        AccessToken { id, secret }
    }

    /// `None` for anything but the one text of a token. The text is a secret, so nothing is said about what is wrong with it.
    pub fn parse(text: &str) -> Option<AccessToken> {
        let digits = text.strip_prefix(PREFIX)?;
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        hex::decode_to_slice(digits.get(..16)?, &mut id).ok()?;
        hex::decode_to_slice(digits.get(16..)?, &mut secret).ok()?;
        Some(AccessToken { id, secret })
    }

    /// Its name, which may be shown.
    pub fn id(&self) -> &[u8; 8] {
        &self.id
    }

    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What a policy knows of it.
    pub fn hash(&self) -> [u8; 32] {
        policy::token_hash(&self.secret)
    }

    /// The text, secret included: for whoever the token is made for.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}{}", hex::encode(self.id), hex::encode(self.secret))
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({}, …)", hex::encode(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_is_read_back_from_its_text(id: [u8; 8], secret: [u8; 32]) {
            let token = AccessToken::new(id, secret);
            let text = token.reveal();
            prop_assert_eq!(text.len(), 84);
            let read = AccessToken::parse(&text).unwrap();
            prop_assert_eq!((read.id(), read.secret()), (&id, &secret));
            let shown = format!("{token:?}");
            prop_assert!(secret[..4] == id[..4] || !shown.contains(&hex::encode(secret)[..8]));
        }

        #[test]
        fn any_text_is_read_or_not_without_a_panic(text in "(cft_)?\\PC*") {
            if let Some(token) = AccessToken::parse(&text) {
                prop_assert_eq!(token.reveal(), text);
            }
        }
    }

    #[test]
    fn nothing_but_the_one_text_is_a_token() {
        let text = AccessToken::new([1; 8], [2; 32]).reveal();
        let digits = &text[4..];
        for wrong in [
            "",
            "cft_",
            digits,
            &text[..83],
            &format!("{text}0"),
            &format!(" {text}"),
            &text.to_uppercase(),
        ] {
            assert!(AccessToken::parse(wrong).is_none(), "{wrong:?}");
        }
        assert!(AccessToken::parse(&format!("cft_{}", "A".repeat(80))).is_none());
        assert!(AccessToken::parse(&format!("cft_{}é", "a".repeat(78))).is_none());
    }
}
