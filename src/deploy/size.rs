//! How much of a machine a replica gets, and how many replicas there are.

use serde::{Deserialize, Serialize};

use super::wish::Environment;

/// Container Apps sells CPU in quarters (Microsoft Learn, "Containers in Azure Container Apps", consumption plan).
const CPU_STEP_MILLIS: u32 = 250;
/// The largest on that plan: 4 cores, 8 GiB.
const MOST_CPU_MILLIS: u32 = 4_000;
/// Each core comes with 2 GiB.
const MIB_PER_CORE: u32 = 2_048;

/// CPU and memory of one replica; always a pair that Container Apps sells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Mebibytes.
    pub memory_mib: u32,
}

/// Text that is no size, or no pair that exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    /// Not a number of cores.
    #[error("`{0}` is not a number of cores such as \"0.5\" or \"2\"")]
    Cpu(String),
    /// Not an amount of memory.
    #[error("`{0}` is not an amount of memory such as \"2Gi\" or \"512Mi\"")]
    Memory(String),
    /// No such pair.
    #[error("cpu {cpu} with memory {memory} does not exist; the nearest pair is cpu \"{}\" with memory \"{}\"", nearest.cpu(), nearest.memory())]
    Pair {
        /// As given.
        cpu: String,
        /// As given.
        memory: String,
        /// What to ask for instead.
        nearest: Size,
    },
}

impl Size {
    /// Half a core and 1 GiB.
    pub const HALF: Self = Self { cpu_millis: 500, memory_mib: 1_024 };
    /// One core and 2 GiB.
    pub const ONE: Self = Self { cpu_millis: 1_000, memory_mib: 2_048 };
    /// Two cores and 4 GiB.
    pub const TWO: Self = Self { cpu_millis: 2_000, memory_mib: 4_096 };

    /// Reads a pair such as `"1"`, `"2Gi"`.
    ///
    /// # Errors
    /// [`BadSize`], with the nearest pair that exists.
    pub fn parse(cpu: &str, memory: &str) -> Result<Self, BadSize> {
        let (cpu_millis, memory_mib) = (parse_cpu(cpu)?, parse_memory(memory)?);
        let steps = cpu_millis.div_ceil(CPU_STEP_MILLIS).clamp(1, MOST_CPU_MILLIS / CPU_STEP_MILLIS);
        let nearest_cpu = steps * CPU_STEP_MILLIS;
        let nearest = Self { cpu_millis: nearest_cpu, memory_mib: nearest_cpu * MIB_PER_CORE / 1_000 };
        if nearest == (Self { cpu_millis, memory_mib }) {
            Ok(nearest)
        } else {
            Err(BadSize::Pair { cpu: cpu.to_owned(), memory: memory.to_owned(), nearest })
        }
    }

    /// The CPU as Container Apps writes it: `0.5`.
    #[must_use]
    pub fn cpu(&self) -> String {
        let (whole, rest) = (self.cpu_millis / 1_000, self.cpu_millis % 1_000);
        if rest == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
        }
    }

    /// The memory as Container Apps writes it: `1Gi`, `0.5Gi`.
    #[must_use]
    pub fn memory(&self) -> String {
        if self.memory_mib.is_multiple_of(1_024) {
            format!("{}Gi", self.memory_mib / 1_024)
        } else {
            format!("{}Gi", f64::from(self.memory_mib) / 1_024.0)
        }
    }
}

/// Thousandths of a core from `"0.5"`.
///
/// # Errors
/// [`BadSize::Cpu`].
pub fn parse_cpu(text: &str) -> Result<u32, BadSize> {
    let bad = || BadSize::Cpu(text.to_owned());
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || rest.is_empty() || rest.len() > 3 || (whole.len() > 3) {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let rest: u32 = format!("{rest:0<3}").parse().map_err(|_| bad())?;
    Ok(whole * 1_000 + rest)
}

/// Mebibytes from `"2Gi"`, `"0.5Gi"` or `"2048Mi"`.
///
/// # Errors
/// [`BadSize::Memory`].
pub fn parse_memory(text: &str) -> Result<u32, BadSize> {
    let bad = || BadSize::Memory(text.to_owned());
    if let Some(mib) = text.strip_suffix("Mi") {
        return mib.parse().map_err(|_| bad());
    }
    let gib = text.strip_suffix("Gi").ok_or_else(bad)?;
    let thousandths = parse_cpu(gib).map_err(|_| bad())?;
    Ok(thousandths * 1_024 / 1_000)
}

/// Bounds of the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

/// What an environment gets when nobody asks for more.
#[must_use]
pub fn defaults(environment: &Environment) -> (Size, Replicas) {
    match environment {
        Environment::Development => (Size::HALF, Replicas { min: 0, max: 2 }),
        Environment::Production => (Size::TWO, Replicas { min: 2, max: 10 }),
        Environment::Staging | Environment::Preview(_) => (Size::ONE, Replicas { min: 1, max: 10 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_that_exist_are_sizes() {
        assert_eq!(Size::parse("1", "2Gi").unwrap(), Size::ONE);
        assert_eq!(Size::parse("0.5", "1Gi").unwrap(), Size::HALF);
        assert_eq!(Size::parse("0.25", "512Mi").unwrap().memory(), "0.5Gi");
        assert_eq!(Size::parse("2", "4096Mi").unwrap(), Size::TWO);
        for (cpu, memory, says) in [
            ("1", "1Gi", "cpu \"1\" with memory \"2Gi\""),
            ("0.3", "1Gi", "cpu \"0.5\" with memory \"1Gi\""),
            ("64", "1Gi", "cpu \"4\" with memory \"8Gi\""),
            ("one", "1Gi", "number of cores"),
            ("1", "2", "amount of memory"),
            ("", "2Gi", "number of cores"),
            ("1", "-2Gi", "amount of memory"),
        ] {
            let said = Size::parse(cpu, memory).unwrap_err().to_string();
            assert!(said.contains(says), "{cpu} {memory}: {said}");
        }
    }

    #[test]
    fn every_environment_has_the_documented_defaults() {
        let of = |environment| {
            let (size, replicas) = defaults(&environment);
            (size.cpu(), size.memory(), replicas.min, replicas.max)
        };
        assert_eq!(of(Environment::Development), ("0.5".into(), "1Gi".into(), 0, 2));
        assert_eq!(of(Environment::Production), ("2".into(), "4Gi".into(), 2, 10));
        assert_eq!(of(Environment::Staging), ("1".into(), "2Gi".into(), 1, 10));
    }
}
