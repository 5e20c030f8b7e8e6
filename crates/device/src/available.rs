//! How much more memory the system gives this process before it would end it.
//!
//! On the host, a failed allocation aborts the process, or the system kills one. Code that can compute
//! its memory compares it with this first.

/// Bytes that this process can still take: the least of what the machine has left, swap included,
/// what its control groups (v1 or v2) allow, and what its limit on address space allows. `None` where
/// the system does not say, which is everywhere but on Linux.
pub fn available_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::available();
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    /// The controllers' root; those of v1 have a folder of their own each.
    const CGROUPS: &str = "/sys/fs/cgroup";

    pub fn available() -> Option<u64> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let machine = read("/proc/meminfo").and_then(|text| of_machine(&text));
        let groups = read("/proc/self/cgroup").map(|text| groups(&text)).unwrap_or_default();
        let groups = groups.iter().filter_map(|group| group.left());
        let space = read("/proc/self/limits")
            .zip(read("/proc/self/status"))
            .and_then(|(limits, status)| of_address_space(&limits, &status));
        groups.chain(machine).chain(space).min()
    }

    pub(super) fn of_machine(meminfo: &str) -> Option<u64> {
        Some(kibibytes(meminfo, "MemAvailable:")? + kibibytes(meminfo, "SwapFree:").unwrap_or(0))
    }

    /// `ulimit -v`.
    pub(super) fn of_address_space(limits: &str, status: &str) -> Option<u64> {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(limit.saturating_sub(kibibytes(status, "VmSize:")?))
    }

    /// Lines are `name kilobytes kB`.
    fn kibibytes(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }

    /// A control group's files.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Group {
        folder: PathBuf,
        limit: &'static str,
        usage: &'static str,
        /// In `memory.stat`: pages of files, which the system takes back when it needs them.
        inactive: &'static str,
    }

    /// The groups that bound this process, each with those above it. Lines are `number:controllers:path`,
    /// of v2 `0::path`.
    pub(super) fn groups(text: &str) -> Vec<Group> {
        let mut groups = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let root = match controllers {
                "" => PathBuf::from(CGROUPS),
                v1 if v1.split(',').any(|one| one == "memory") => Path::new(CGROUPS).join("memory"),
                _ => continue,
            };
            let folder = root.join(path.trim_start_matches('/'));
            let above = folder.ancestors().take_while(|folder| folder.starts_with(&root));
            groups.extend(above.map(|folder| Group::at(folder, controllers.is_empty())));
        }
        groups
    }

    impl Group {
        fn at(folder: &Path, v2: bool) -> Self {
            let (limit, usage, inactive) = if v2 {
                ("memory.max", "memory.current", "inactive_file ")
            } else {
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            };
            Self { folder: folder.to_owned(), limit, usage, inactive }
        }

        /// `None` if it has no limit, or is not to be seen from here.
        pub(super) fn left(&self) -> Option<u64> {
            let read = |name: &str| fs::read_to_string(self.folder.join(name)).ok();
            // v2 says "max" where there is none, v1 a number above any memory.
            let limit: u64 = read(self.limit)?.trim().parse().ok()?;
            let usage: u64 = read(self.usage)?.trim().parse().ok()?;
            let inactive = read("memory.stat").and_then(|stat| {
                stat.lines().find_map(|line| line.strip_prefix(self.inactive)?.trim().parse().ok())
            });
            Some(limit.saturating_sub(usage.saturating_sub(inactive.unwrap_or(0))))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_the_machine_and_the_limit_say_is_read() {
            let meminfo = "MemTotal: 100 kB\nMemAvailable:    50 kB\nSwapFree:   2 kB\n";
            assert_eq!(of_machine(meminfo), Some(52 << 10));
            assert_eq!(of_machine("MemTotal: 100 kB"), None);
            let limits = |soft: &str| format!("Max address space  {soft}  unlimited  bytes\n");
            let status = "VmSize:\t 3 kB\n";
            assert_eq!(of_address_space(&limits("4096"), status), Some(1024));
            assert_eq!(of_address_space(&limits("1024"), status), Some(0));
            assert_eq!(of_address_space(&limits("unlimited"), status), None);
            assert!(available().is_some_and(|bytes| bytes > 0));
        }

        #[test]
        fn a_group_and_those_above_it_bound_a_process() {
            let folders = |text: &str| -> Vec<String> {
                groups(text).iter().map(|g| g.folder.display().to_string()).collect()
            };
            let v2 = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"];
            assert_eq!(folders("0::/a/b\n"), v2);
            let v1 = ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"];
            assert_eq!(folders("5:cpu:/x\n4:hugetlb,memory:/a\nnonsense\n"), v1);
        }

        #[test]
        fn a_group_has_its_limit_less_what_is_in_use() {
            let folder = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            let write = |name: &str, text: &str| {
                fs::write(folder.join(name), text).expect("written");
            };
            let group = Group::at(&folder, true);
            assert_eq!(group.left(), None);
            write("memory.current", "700\n");
            write("memory.stat", "anon 600\ninactive_file 50\n");
            write("memory.max", "max\n");
            assert_eq!(group.left(), None, "no limit");
            write("memory.max", "1000\n");
            assert_eq!(group.left(), Some(350));
            fs::remove_dir_all(&folder).expect("removed");
        }
    }
}
