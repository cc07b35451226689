//! Runs contenders in turns and collects their results.

use anyhow::Context as _;

/// A program to measure.
pub struct Contender<'a> {
    /// Its name in the table.
    pub name: String,
    /// One run: the result, in the table's unit.
    pub run: Box<dyn FnMut() -> anyhow::Result<f64> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A contender's results.
#[derive(Clone, Debug)]
pub struct Score {
    /// The contender's name.
    pub name: String,
    /// The result of each round; empty if it could not run.
    pub reached: Vec<f64>,
    /// Why it could not run.
    pub failure: Option<String>,
}

impl Score {
    /// The median; none without a run.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        median(&self.reached)
    }
}

/// The median; none without numbers.
#[must_use]
pub fn median(numbers: &[f64]) -> Option<f64> {
    let ascending = ascending(numbers);
    let middle = ascending.len() / 2;
    match ascending.len() {
        0 => None,
        count if count % 2 == 1 => Some(ascending[middle]),
        _ => Some((ascending[middle - 1] + ascending[middle]) / 2.0),
    }
}

/// The confidence interval of the median, valid for any distribution (the interval of the sign
/// test); none if there are too few numbers.
#[must_use]
pub fn median_interval(numbers: &[f64], confidence: f64) -> Option<(f64, f64)> {
    let ascending = ascending(numbers);
    let count = ascending.len();
    // Each number lies below the median with probability 1/2, so their count is binomial.
    let mut probability = 0.5f64.powi(i32::try_from(count).ok()?);
    let (mut outside, mut cut) = (0.0, 0);
    while cut < count {
        outside += 2.0 * probability;
        if outside > 1.0 - confidence {
            break;
        }
        probability *= (count - cut) as f64 / (cut + 1) as f64;
        cut += 1;
    }
    let at = cut.checked_sub(1)?;
    Some((*ascending.get(at)?, *ascending.get(count.checked_sub(cut)?)?))
}

/// The lowest and the highest of some numbers.
pub fn range(numbers: &[f64]) -> (f64, f64) {
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    (low, numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Lets every contender run once in each round, after a warm-up round. Every other round runs in
/// reverse order, so that no contender always follows the same one and changes over time affect all
/// alike. A contender that fails is not run again.
pub fn hold(mut contenders: Vec<Contender<'_>>, rounds: usize) -> Vec<Score> {
    let empty = |contender: &Contender<'_>| Score { name: contender.name.clone(), reached: Vec::new(), failure: None };
    let mut scores: Vec<Score> = contenders.iter().map(empty).collect();
    for round in 0..=rounds {
        let forwards = 0..contenders.len();
        let turns: Vec<usize> = if round % 2 == 0 { forwards.collect() } else { forwards.rev().collect() };
        for at in turns {
            let (contender, score) = (&mut contenders[at], &mut scores[at]);
            if score.failure.is_some() {
                continue;
            }
            match (contender.run)().with_context(|| contender.name.clone()) {
                Ok(reached) if round > 0 => score.reached.push(reached),
                Ok(_) => {}
                Err(error) => score.failure = Some(format!("{error:#}")),
            }
        }
    }
    scores
}

fn ascending(numbers: &[f64]) -> Vec<f64> {
    let mut ascending = numbers.to_vec();
    ascending.sort_unstable_by(f64::total_cmp);
    ascending
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The table of the sign test: with 6 numbers the first and the last, with 20 the 6th and the
    /// 15th.
    #[test]
    fn the_interval_of_a_median_is_that_of_the_sign_test() {
        let numbers = |count: u32| (1..=count).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_interval(&numbers(5), 0.95), None);
        assert_eq!(median_interval(&numbers(6), 0.95), Some((1.0, 6.0)));
        assert_eq!(median_interval(&numbers(20), 0.95), Some((6.0, 15.0)));
        assert_eq!(median_interval(&numbers(31), 0.95), Some((10.0, 22.0)));
    }

    #[test]
    fn everybody_runs_once_a_round_and_every_other_round_goes_backwards() {
        let turns = RefCell::new(String::new());
        let contender = |name: &'static str| Contender {
            name: name.to_owned(),
            run: Box::new({
                let turns = &turns;
                move || {
                    turns.borrow_mut().push_str(name);
                    Ok(turns.borrow().len() as f64)
                }
            }),
        };
        let scores = hold(vec![contender("a"), contender("b")], 2);
        assert_eq!(*turns.borrow(), "abbaab");
        // The first round does not count; the others are in their order.
        assert_eq!((&*scores[0].reached, &*scores[1].reached), ([4.0, 5.0].as_slice(), [3.0, 6.0].as_slice()));
        assert_eq!((scores[0].median(), scores[1].median()), (Some(4.5), Some(4.5)));
    }
}
