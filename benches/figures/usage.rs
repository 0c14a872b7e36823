//! What this process and the servers use: memory and processor time.

use std::{alloc::System, time::Duration};

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

use crate::server::Server;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What was used until some moment.
pub(crate) struct Usage {
    memory: Stats,
    cpu: Duration,
}

/// What one of many takes.
pub(crate) struct Each {
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    pub(crate) cpu_micros: f64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        Self {
            memory: ALLOCATOR.stats(),
            cpu: cpu(),
        }
    }

    /// What each of `count` took since then.
    pub(crate) fn per(&self, count: usize) -> Each {
        let memory = ALLOCATOR.stats() - self.memory;
        let each = |sum: f64| sum / count as f64;
        Each {
            allocations: each((memory.allocations + memory.reallocations) as f64),
            bytes: each(memory.bytes_allocated as f64),
            cpu_micros: each((cpu() - self.cpu).as_secs_f64() * 1e6),
        }
    }

    /// Bytes that are in use now and were not then.
    pub(crate) fn kept(&self) -> i64 {
        let memory = ALLOCATOR.stats() - self.memory;
        memory.bytes_allocated as i64 - memory.bytes_deallocated as i64
    }
}

/// Processor time that all `servers` together have used.
pub(crate) fn server_cpu(servers: &[Server]) -> Duration {
    let used = |server: &Server| {
        let info = server.text(&["INFO", "cpu"]);
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let own = matches!(name, "used_cpu_sys" | "used_cpu_user");
            value.trim().parse::<f64>().ok().filter(|_| own)
        };
        Duration::from_secs_f64(info.lines().filter_map(field).sum())
    };
    servers.iter().map(used).sum()
}

/// Processor time that this process has used.
pub(crate) fn cpu() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime)
        .try_into()
        .expect("not negative")
}
