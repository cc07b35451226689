//! For how long a request with an `Idempotency-Key` is known.

use std::time::Duration;

use culvert_portal_model::problem::Problem;
use culvert_portal_service::housekeeping::keep_house;
use culvert_portal_service::idempotency::{self, Claim, KeptAnswer, Verdict};
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::Room;

async fn claim(room: &Room, hash: &str) -> Result<Verdict, Problem> {
    idempotency::claim(&room.portal, "somebody", "key", hash).await.map_err(|fault| fault.problem)
}

async fn claimed(room: &Room, hash: &str) -> Claim {
    match claim(room, hash).await {
        Ok(Verdict::Do(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

on_both_databases! {
    /// An answer is repeated for a day; after that the key is as new, also for another request.
    async fn an_answer_is_repeated_for_a_day(room) {
        let answer = KeptAnswer { status: 201, headers: "[]".to_owned(), body: b"made".to_vec() };
        let first = claimed(&room, "one").await;
        assert_eq!(claim(&room, "one").await, Err(Problem::IdempotencyConflict), "it is worked on");
        idempotency::settle(&room.portal, &first, Some(&answer)).await.unwrap();
        for hours in [0, 12, 11] {
            room.clock.advance(Duration::from_secs(hours * 3_600));
            keep_house(&room.portal).await.unwrap();
            assert_eq!(claim(&room, "one").await, Ok(Verdict::Repeat(answer.clone())), "after {hours} more hours");
            assert_eq!(claim(&room, "two").await, Err(Problem::IdempotencyConflict));
        }
        room.clock.advance(Duration::from_secs(3_600 + 1));
        keep_house(&room.portal).await.unwrap();
        let again = claimed(&room, "two").await;
        assert_ne!(again, first);
        // What the first still says is of no consequence.
        idempotency::settle(&room.portal, &first, Some(&answer)).await.unwrap();
        assert_eq!(claim(&room, "two").await, Err(Problem::IdempotencyConflict));
    }

    /// Whoever works on a request for so long has died: somebody else takes it over, and what the
    /// first still does counts for nothing.
    async fn what_nobody_works_on_any_more_is_taken_over(room) {
        let first = claimed(&room, "one").await;
        room.clock.advance(Duration::from_secs(60));
        assert_eq!(claim(&room, "one").await, Err(Problem::IdempotencyConflict), "it may still be worked on");
        room.clock.advance(Duration::from_secs(1));
        let second = claimed(&room, "one").await;
        idempotency::settle(&room.portal, &first, None).await.unwrap();
        assert_eq!(claim(&room, "one").await, Err(Problem::IdempotencyConflict), "the second works on it");
        let answer = KeptAnswer { status: 204, headers: "[]".to_owned(), body: Vec::new() };
        idempotency::settle(&room.portal, &second, Some(&answer)).await.unwrap();
        assert_eq!(claim(&room, "one").await, Ok(Verdict::Repeat(answer)));
    }
}
