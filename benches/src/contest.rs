//! Contenders that take turns.

use anyhow::Context as _;

/// Somebody who can be measured.
pub struct Contender<'a> {
    /// What it is called in the table.
    pub name: String,
    /// One run: what it reached, in the table's unit.
    pub run: Box<dyn FnMut() -> anyhow::Result<f64> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A contender's runs.
#[derive(Clone, Debug)]
pub struct Score {
    /// Its name.
    pub name: String,
    /// What it reached, ascending; empty if it could not run.
    pub reached: Vec<f64>,
    /// Why not.
    pub failure: Option<String>,
}

impl Score {
    /// The median; none without a run.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let middle = self.reached.len() / 2;
        match self.reached.len() {
            0 => None,
            count if count % 2 == 1 => Some(self.reached[middle]),
            _ => Some((self.reached[middle - 1] + self.reached[middle]) / 2.0),
        }
    }
}

/// Lets everybody run once in each round, after a round that does not count. Who fails once is out, with the reason.
pub fn hold(mut contenders: Vec<Contender<'_>>, rounds: usize) -> Vec<Score> {
    let empty = |contender: &Contender<'_>| Score { name: contender.name.clone(), reached: Vec::new(), failure: None };
    let mut scores: Vec<Score> = contenders.iter().map(empty).collect();
    for round in 0..=rounds {
        for (contender, score) in contenders.iter_mut().zip(&mut scores) {
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
    for score in &mut scores {
        score.reached.sort_unstable_by(f64::total_cmp);
    }
    scores
}
