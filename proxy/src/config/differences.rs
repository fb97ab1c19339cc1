//! In which keys two configurations differ.

use super::Config;

impl Config {
    /// The keys, in dotted notation, whose values are others in `other`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        compare("", &self.to_table(), &other.to_table(), &mut keys);
        keys
    }
}

fn compare(prefix: &str, one: &toml::Table, other: &toml::Table, keys: &mut Vec<String>) {
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let key = format!("{prefix}{name}");
        match (one.get(name), other.get(name)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                compare(&format!("{key}."), one, other, keys);
            }
            (one, other) if one != other => keys.push(key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortList;

    #[test]
    fn differences_are_named_by_key() {
        let one = Config::default();
        assert!(one.differences(&one).is_empty());
        let mut other = one.clone();
        other.own.workload.cgroup = Some("/sys/fs/cgroup/a".into());
        other.own.outbound.skip_ports = PortList::parse("80").unwrap();
        other.process.log.level = "debug".into();
        let keys = ["log.level", "outbound.skip_ports", "workload.cgroup"];
        assert_eq!(one.differences(&other), keys);
        assert_eq!(other.differences(&one), keys);
    }
}
