//! One-use attestation tokens: whoever shows one is the workload that it was made for.
//!
//! Only hashes are kept, in memory: a restart forgets them, and whoever holds one asks for another.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::random;

/// Tokens that wait for their use, over all workloads.
const TOKENS: usize = 10_000;
/// Tokens that wait for their use for one workload: a supervisor that restarts it quickly holds a few.
const TOKENS_PER_WORKLOAD: usize = 16;

/// The tokens that were made and not used.
pub(crate) struct Tokens {
    life: Duration,
    waiting: Mutex<HashMap<String, Vec<Waiting>>>,
}

struct Waiting {
    hash: [u8; 32],
    service_account: String,
    claims: Option<String>,
    expires: SystemTime,
}

/// Why a token is not made or not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("too many tokens wait for their use; they expire by themselves, try again later")]
    TooMany,
    // One message for unknown, used, expired and foreign tokens: an attacker learns nothing from it.
    #[error(
        "the token is not valid for this workload and service account: it may have been used, have expired, or have been \
         made before the control plane was restarted; ask for a new one (`heddle token`)"
    )]
    Refused,
}

impl Tokens {
    pub(crate) fn new(life: Duration) -> Tokens {
        Tokens { life, waiting: Mutex::default() }
    }

    /// Makes a token for `workload` (`namespace/name`) to get the identity of `service_account` and to register with `claims` (their
    /// digest; `None`: any of its namespace), and says until when.
    pub(crate) fn make(
        &self,
        workload: &str,
        service_account: &str,
        claims: Option<String>,
        now: SystemTime,
    ) -> Result<(String, SystemTime), TokenError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.values().map(Vec::len).sum::<usize>() >= TOKENS {
            waiting.retain(|_, list| {
                list.retain(|t| t.expires > now);
                !list.is_empty()
            });
            if waiting.values().map(Vec::len).sum::<usize>() >= TOKENS {
                return Err(TokenError::TooMany);
            }
        }
        let list = waiting.entry(workload.to_owned()).or_default();
        if list.len() >= TOKENS_PER_WORKLOAD {
            // The oldest is the one that nobody will use any more.
            list.remove(0);
        }
        let secret: [u8; 32] = random::bytes();
        let token: String = secret.iter().map(|b| format!("{b:02x}")).collect();
        let expires = now + self.life;
        list.push(Waiting { hash: hash(&token), service_account: service_account.to_owned(), claims, expires });
        Ok((token, expires))
    }

    /// Uses `token` up, and says for which claims it was made. It is used up, too, when it was made for another service account.
    pub(crate) fn redeem(
        &self,
        token: &str,
        workload: &str,
        service_account: &str,
        now: SystemTime,
    ) -> Result<Option<String>, TokenError> {
        let shown = hash(token);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let list = waiting.get_mut(workload).ok_or(TokenError::Refused)?;
        let mut found = None;
        for (index, one) in list.iter().enumerate() {
            if same(&one.hash, &shown) {
                found = Some(index);
            }
        }
        let one = list.remove(found.ok_or(TokenError::Refused)?);
        if list.is_empty() {
            waiting.remove(workload);
        }
        if one.expires <= now || one.service_account != service_account {
            return Err(TokenError::Refused);
        }
        Ok(one.claims)
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Equality that takes the same time wherever the first difference is.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    fn made() -> (Tokens, String, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let tokens = Tokens::new(LIFE);
        let (token, expires) = tokens.make("shop/cart-0", "cart", Some("claims".into()), now).unwrap();
        assert_eq!((token.len(), expires), (64, now + LIFE));
        (tokens, token, now)
    }

    #[test]
    fn a_token_is_good_for_one_use() {
        let (tokens, token, now) = made();
        assert_eq!(tokens.redeem(&token, "shop/cart-0", "cart", now), Ok(Some("claims".into())));
        assert_eq!(tokens.redeem(&token, "shop/cart-0", "cart", now), Err(TokenError::Refused));
        assert!(tokens.waiting.lock().unwrap().is_empty());
    }

    #[test]
    fn a_token_is_bound_to_its_workload_and_service_account() {
        let (tokens, token, now) = made();
        assert_eq!(tokens.redeem(&token, "shop/cart-1", "cart", now), Err(TokenError::Refused));
        assert_eq!(tokens.redeem(&token, "shop/cart-0", "admin", now), Err(TokenError::Refused));
        assert_eq!(tokens.redeem(&token, "shop/cart-0", "cart", now), Err(TokenError::Refused), "it was used up");
    }

    #[test]
    fn a_token_expires() {
        let (tokens, token, now) = made();
        assert_eq!(tokens.redeem(&token, "shop/cart-0", "cart", now + LIFE), Err(TokenError::Refused));
    }

    #[test]
    fn the_number_of_waiting_tokens_is_bounded() {
        let (tokens, first, now) = made();
        for _ in 0..TOKENS_PER_WORKLOAD {
            tokens.make("shop/cart-0", "cart", None, now).unwrap();
        }
        assert_eq!(tokens.redeem(&first, "shop/cart-0", "cart", now), Err(TokenError::Refused), "the oldest gave way");
        for n in TOKENS_PER_WORKLOAD..=TOKENS {
            let made = tokens.make(&format!("shop/w{n}"), "a", None, now);
            assert!(made.is_ok() || n >= TOKENS - 1, "{n}");
        }
        assert_eq!(tokens.make("shop/late", "a", None, now), Err(TokenError::TooMany));
        assert!(tokens.make("shop/late", "a", None, now + LIFE).is_ok(), "the expired ones made room");
    }
}
