//! Rules that cannot be, whatever source has told of them.

use std::time::Duration;

use weir_http::{RetryOn, RetryPolicy, TimeLimits};

use super::{Filters, PathChange, PathMatch, Rule, check_field};

/// The largest weight (`BackendRef.weight` of the Gateway API).
const MOST_WEIGHT: u32 = 1_000_000;
/// Rules, matches and backends: as many as the Gateway API allows, or more.
const MOST: usize = 128;
/// Retries of a request.
const MOST_ATTEMPTS: u8 = 10;

// === impl Rule ===

impl Rule {
    /// Whether it can be in force.
    ///
    /// # Errors
    /// What contradicts itself, or is out of its range.
    pub fn check(&self) -> Result<(), String> {
        let all_prefixes = self.matches.iter().all(|it| matches!(it.path, PathMatch::Prefix(_)));
        if self.matches.len() > MOST || self.backends.len() > MOST {
            return Err(format!("it has more than {MOST} matches or backends"));
        }
        for it in &self.matches {
            if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &it.path {
                check_path(path)?;
            }
        }
        self.filters.check(all_prefixes)?;
        if self.filters.redirect.is_some() && !self.backends.is_empty() {
            return Err("a redirect goes to no backend; remove one of them".to_owned());
        }
        let TimeLimits { request, backend, idle } = self.limits;
        if request.is_some_and(|it| backend.is_some_and(|backend| backend > it)) {
            return Err(
                "a backend may take longer than the whole request; give it a shorter time, or the \
                        request a longer one"
                    .to_owned(),
            );
        }
        if [request, backend, idle].contains(&Some(Duration::ZERO)) {
            return Err("a time limit of zero would end all requests; leave it out".to_owned());
        }
        if let Some(rate) = &self.rate {
            rate.limit().check()?;
        }
        if let Some(affinity) = &self.affinity {
            affinity.check()?;
        }
        if let Some(faults) = &self.faults {
            faults.check()?;
        }
        if let Some(retry) = &self.retry {
            check_retry(retry)?;
        }
        for backend in &self.backends {
            if backend.weight > MOST_WEIGHT {
                let service = &backend.service;
                return Err(format!("the weight of {service} is more than {MOST_WEIGHT}"));
            }
            if backend.filters.redirect.is_some() || backend.filters.rewrite.is_some() {
                let service = &backend.service;
                return Err(format!(
                    "the backend {service}: redirects and rewrites are for whole rules; move it there"
                ));
            }
            backend.filters.check(all_prefixes)?;
        }
        Ok(())
    }
}

// === impl Filters ===

impl Filters {
    fn check(&self, all_prefixes: bool) -> Result<(), String> {
        use weir_http::FieldEdit::{Add, Remove, Set};
        for edit in self.request.iter().chain(&self.response) {
            let value = match edit {
                Set(_, value) | Add(_, value) => value,
                Remove(_) => "",
            };
            check_field(edit.name(), value)?;
        }
        if self.redirect.is_some() && self.rewrite.is_some() {
            return Err("a redirect and a rewrite exclude each other".to_owned());
        }
        let paths = [
            self.redirect.as_ref().and_then(|it| it.path.as_ref()),
            self.rewrite.as_ref().and_then(|it| it.path.as_ref()),
        ];
        for change in paths.into_iter().flatten() {
            match change {
                PathChange::Prefix(_) if !all_prefixes => {
                    return Err(
                        "a prefix is replaced only where each match is of a prefix".to_owned()
                    );
                }
                PathChange::Prefix(path) if path.is_empty() => {}
                PathChange::Full(path) | PathChange::Prefix(path) => check_path(path)?,
            }
        }
        if let Some(redirect) = &self.redirect {
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                let status = redirect.status;
                return Err(format!("{status} is no redirect; write 301, 302, 303, 307 or 308"));
            }
            if let Some(scheme) =
                redirect.scheme.as_deref().filter(|it| !matches!(*it, "http" | "https"))
            {
                return Err(format!("{scheme:?} is no scheme; write http or https"));
            }
        }
        let hosts = [
            self.redirect.as_ref().and_then(|it| it.hostname.as_deref()),
            self.rewrite.as_ref().and_then(|it| it.hostname.as_deref()),
        ];
        hosts.into_iter().flatten().try_for_each(check_host)
    }
}

// === helpers ===

fn check_retry(retry: &RetryPolicy) -> Result<(), String> {
    let attempts = retry.attempts;
    if !(1..=MOST_ATTEMPTS).contains(&attempts) {
        return Err(format!(
            "retry: {attempts} attempts; write 1 to {MOST_ATTEMPTS}, or leave retry out"
        ));
    }
    let RetryOn::Http(codes) = &retry.on else { return Ok(()) };
    for (from, to) in codes {
        if !(400..=599).contains(from) || !(400..=599).contains(to) || from > to {
            let code = if from == to { from.to_string() } else { format!("{from}-{to}") };
            return Err(format!(
                "retry: the code {code} is none of a failure; write codes from 400 to 599"
            ));
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} does not begin with a slash"));
    }
    if !path.bytes().all(|byte| byte > b' ' && byte != 0x7f && !matches!(byte, b'?' | b'#')) {
        return Err(format!(
            "the path {path:?} has a space, a '?', a '#' or a control character in it"
        ));
    }
    Ok(())
}

fn check_host(host: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(allowed)
    };
    match (1..=253).contains(&host.len()) && host.split('.').all(is_label) {
        true => Ok(()),
        false => {
            Err(format!("{host:?} is no host name; write one without a port, such as shop.test"))
        }
    }
}
