//! Definition of a measurement: the median of several runs after warm-up runs. Each run begins and
//! ends with an idle device.

use std::time::{Duration, Instant};

use candle_core::Device;
use llm_dit_device::meter;

/// How often something is done.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub warm_up: u32,
    pub runs: u32,
}

/// Times of the runs that count, fastest first.
#[derive(Clone, Debug)]
pub struct Times(Vec<Duration>);

impl Clock {
    /// Times `work`, and waits for these devices before and after each run.
    ///
    /// # Errors
    ///
    /// The first error of `work` or of a device.
    pub fn time<T, E: From<candle_core::Error>>(
        self,
        devices: &[&Device],
        mut work: impl FnMut() -> Result<T, E>,
    ) -> Result<Times, E> {
        let mut once = || {
            devices.iter().try_for_each(|device| meter::synchronize(device))?;
            let begun = Instant::now();
            let done = work()?;
            devices.iter().try_for_each(|device| meter::synchronize(device))?;
            let took = begun.elapsed();
            // To free what was made is not part of the work.
            drop(done);
            Ok::<_, E>(took)
        };
        for _ in 0..self.warm_up {
            once()?;
        }
        let times = (0..self.runs.max(1)).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
        Ok(Times::new(times))
    }
}

impl Times {
    /// Sorts the times.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// Of an even number, the slower of the two in the middle.
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The shortest time.
    pub fn fastest(&self) -> Duration {
        self.0.first().copied().unwrap_or_default()
    }

    /// The longest time.
    pub fn slowest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// The number of runs that were timed.
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_to_warm_up_do_not_count() {
        let mut calls = 0;
        let clock = Clock { warm_up: 2, runs: 3 };
        let times = clock
            .time(&[&Device::Cpu], || {
                calls += 1;
                std::thread::sleep(Duration::from_millis(if calls < 3 { 50 } else { 1 }));
                Ok::<_, candle_core::Error>(())
            })
            .expect("nothing fails");
        assert_eq!((calls, times.runs()), (5, 3));
        assert!(times.fastest() <= times.median() && times.median() <= times.slowest());
        assert!(times.fastest() < Duration::from_millis(50), "{times:?}");
    }
}
