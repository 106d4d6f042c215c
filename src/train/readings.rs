//! What a step measures, gathered where it was computed and read in one go.
//!
//! Reading a number waits for the device, so a step reads once, after all its work is queued.

use candle_core::Tensor;
use nestgen_kernels::Var;

use super::augment::sign;
use super::state::Position;
use crate::error::Result;
use crate::ranks::Ranks;

/// Numbers under names, still on their device.
#[derive(Default)]
pub(super) struct Readings {
    names: Vec<(&'static str, usize)>,
    numbers: Vec<Tensor>,
}

impl Readings {
    /// The mean logits of real and of fake images, in this order the last that a discriminator step adds before its
    /// whole loss.
    pub(super) const REAL: &str = "Logits/real";
    /// See [`Self::REAL`].
    pub(super) const FAKE: &str = "Logits/fake";
    /// The loss with all penalties, which is no statistic of its own.
    pub(super) const WHOLE: &str = "";

    /// Takes the numbers of a tensor of any shape.
    pub(super) fn add(&mut self, name: &'static str, numbers: &Var) -> Result<()> {
        let numbers = numbers.value().flatten_all()?;
        self.names.push((name, numbers.elem_count()));
        self.numbers.push(numbers);
        Ok(())
    }

    /// Reads everything, in the order it was added.
    pub(super) fn read(self) -> Result<Vec<(&'static str, Vec<f32>)>> {
        if self.numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut numbers = Tensor::cat(&self.numbers, 0)?.to_vec1::<f32>()?.into_iter();
        Ok(self.names.into_iter().map(|(name, count)| (name, numbers.by_ref().take(count).collect())).collect())
    }

    /// Reads what one part of a discriminator step measured, `share` of the step; tells it to the averages that the next
    /// part may need. Adds to `sums` the loss and the signs of real logits, of a loss on pairs those of a real logit less its
    /// fake partner's: such a loss leaves the level of logits free, and it drifts.
    pub(super) fn settle(
        self,
        position: &mut Position,
        ranks: &Ranks,
        share: f64,
        pairs: bool,
        sums: &mut [f64; 2],
    ) -> Result<()> {
        let (mut measured, mut real) = (Vec::new(), Vec::new());
        for (name, values) in self.read()? {
            match name {
                Self::WHOLE => sums[0] += mean(&values) * share,
                name => measured.push((name, mean(&values))),
            }
            match name {
                Self::REAL if pairs => real = values,
                Self::REAL => sums[1] += values.iter().map(|&logit| sign(logit)).sum::<f64>(),
                Self::FAKE => {
                    sums[1] += real.iter().zip(&values).map(|(real, fake)| sign(real - fake)).sum::<f64>()
                }
                _ => {}
            }
        }
        ranks.mean_measured(&mut measured);
        if let [.., (_, real), (_, fake)] = measured[..] {
            position.lecam.update(real, fake);
        }
        measured.iter().for_each(|&(name, value)| position.collected.report(name, value));
        Ok(())
    }
}

/// The mean in f64.
pub(super) fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn var(values: &[f32]) -> Var {
        Var::constant(Tensor::new(values, &Device::Cpu).unwrap())
    }

    #[test]
    fn what_is_read_is_what_was_added() {
        assert!(Readings::default().read().unwrap().is_empty());
        let mut readings = Readings::default();
        let scalar = Var::constant(Tensor::new(0.1f32, &Device::Cpu).unwrap());
        readings.add("a", &scalar).unwrap();
        readings.add("b", &var(&[1.0, f32::NAN, -3.0])).unwrap();
        let read = readings.read().unwrap();
        assert_eq!((read[0].0, &read[0].1[..]), ("a", &[0.1][..]));
        assert!(read[1].0 == "b" && read[1].1[0] == 1.0 && read[1].1[1].is_nan() && read[1].1[2] == -3.0);
    }

    #[test]
    fn a_discriminator_step_is_settled_by_its_means() {
        let mut readings = Readings::default();
        readings.add("Loss/D", &var(&[2.0])).unwrap();
        readings.add(Readings::REAL, &var(&[1.0, -2.0, 4.0])).unwrap();
        readings.add(Readings::FAKE, &var(&[-1.0, -2.0, -6.0])).unwrap();
        readings.add(Readings::WHOLE, &var(&[5.0])).unwrap();
        let (mut position, mut sums) = (Position::default(), [1.0, 0.0]);
        readings.settle(&mut position, &Ranks::alone(), 0.5, false, &mut sums).unwrap();
        assert_eq!(sums, [3.5, 1.0]);
        assert_eq!(position.collected.means(), [("Logits/fake", -3.0), ("Logits/real", 1.0), ("Loss/D", 2.0)]);
        let mut expected = super::super::penalties::LeCam::default();
        expected.update(1.0, -3.0);
        assert_eq!(position.lecam, expected);
    }

    #[test]
    fn of_pairs_the_level_of_logits_does_not_count() {
        for level in [-9.0, 0.0, 9.0] {
            let mut readings = Readings::default();
            let logits = |values: [f32; 3]| var(&values.map(|logit| logit + level));
            readings.add(Readings::REAL, &logits([1.0, -2.0, 4.0])).unwrap();
            readings.add(Readings::FAKE, &logits([-1.0, -3.0, 6.0])).unwrap();
            let (mut position, mut sums) = (Position::default(), [0.0; 2]);
            readings.settle(&mut position, &Ranks::alone(), 1.0, true, &mut sums).unwrap();
            assert_eq!(sums[1], 1.0, "two of three pairs are told apart");
        }
    }
}
