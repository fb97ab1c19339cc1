//! The flag that says which services there are.

use crate::config::{Config, ConfigError, EndpointConfig, HostPort, ServiceConfig, check_another};

/// Flags for services, of all verbs that capture.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServiceFlags {
    /// A service and its endpoints, or the name that has them as dns:NAME:PORT or srv:NAME; repeatable:
    /// 10.96.0.10:80=10.1.0.5:8080,10.1.0.6:8080
    #[arg(long, value_name = "[NAME@]ADDR:PORT=ENDPOINTS", value_parser = parse, help_heading = "Services")]
    pub service: Vec<ServiceConfig>,
}

// === impl ServiceFlags ===

impl ServiceFlags {
    /// Puts the flags that were given over a configuration.
    ///
    /// # Errors
    /// Where a service has the name or an address of another.
    pub fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        for service in &self.service {
            check_another(&config.process.service, service)
                .map_err(|problem| ConfigError::Value { key: "--service", problem })?;
            config.process.service.push(service.clone());
        }
        Ok(())
    }
}

// === helpers ===

fn parse(text: &str) -> Result<ServiceConfig, String> {
    let usage = "write [NAME@]ADDRESS:PORT=ENDPOINT[,ENDPOINT...], such as \
                 10.96.0.10:80=10.1.0.5:8080,10.1.0.6:8080";
    let (left, right) = text.split_once('=').ok_or_else(|| format!("{text:?}: {usage}"))?;
    let (name, address) = left.split_once('@').unwrap_or((left, left));
    let address: HostPort = address.parse()?;
    // Colons and brackets are no part of a name.
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '-' };
    let name: String = name.chars().map(allowed).collect();
    let (mut endpoints, mut dns, mut srv) = (Vec::new(), None, None);
    if let Some(name) = right.strip_prefix("dns:") {
        dns = Some(name.parse::<HostPort>()?);
    } else if let Some(name) = right.strip_prefix("srv:") {
        srv = Some(name.to_owned());
    } else {
        endpoints = right
            .split(',')
            .map(|endpoint| endpoint.trim().parse::<EndpointConfig>())
            .collect::<Result<_, _>>()?;
    }
    ServiceConfig::new(name, vec![address], endpoints, dns, srv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_written_as_one_word() {
        let service = parse("shop@10.96.0.10:80=10.1.0.5:8080,10.1.0.6:8080").unwrap();
        assert_eq!((&*service.name, service.endpoints.len()), ("shop", 2));
        let unnamed = parse("[fd00::1]:80=[fd01::1]:80,[fd01::2]:80").unwrap();
        assert_eq!(unnamed.name, "-fd00--1--80");
        assert!(parse("db.test:5432=srv:_pg._tcp.test").unwrap().srv.is_some());
        assert!(parse("db.test:5432=dns:pods.test:5432").unwrap().dns.is_some());
        for (wrong, names) in [
            ("10.96.0.10:80", "write [NAME@]"),
            ("10.96.0.10=10.1.0.5:80", "is no address"),
            ("10.96.0.10:80=10.1.0.5", "is no endpoint"),
            ("10.96.0.10:80=dns:10.1.0.5:80", "is an address"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(names), "{wrong}: {error}");
        }
    }

    #[test]
    fn flags_add_to_the_services_of_the_file() {
        let mut config = Config::default();
        let service = vec![parse("a@10.96.0.1:80=10.1.0.1:80").unwrap()];
        let flags = ServiceFlags { service };
        flags.apply(&mut config).unwrap();
        let again = flags.apply(&mut config).unwrap_err().to_string();
        assert_eq!(again, "--service: service \"a\" is there twice; give each a name of its own");
    }
}
