//! Records as one readable line each.

use std::fmt;

use super::{ConnectionRecord, Record, RequestRecord, RouteTaken};
use crate::{
    decision::{Direction, direction_name, source_name},
    units::{human_bytes, human_duration, rfc3339},
};

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(connection) => connection.fmt(f),
            Self::Request(request) => request.fmt(f),
        }
    }
}

impl fmt::Display for ConnectionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{} {} ", rfc3339(self.time), self.id, direction_name(self.direction))?;
        if let Some(client) = self.client {
            write!(f, "{client} ")?;
        }
        if let Some(process) = self.process {
            write!(f, "{process} ")?;
        }
        if self.client.is_some() || self.process.is_some() {
            f.write_str("-> ")?;
        }
        write!(f, "{} ", self.destination)?;
        if let Some(endpoint) = self.endpoint {
            write!(f, "at {endpoint} ")?;
        }
        match (self.treatment, self.source) {
            (Some(treatment), Some(source)) => {
                let by = self.reason.as_deref().unwrap_or_else(|| source_name(source));
                write!(f, "{treatment} ({by}: {})", self.why)?;
            }
            _ => write!(f, "- ({})", self.why)?,
        }
        if let Some(name) = self.name.as_ref().filter(|name| Some(*name) != self.sni.as_ref()) {
            write!(f, " name={}", name.escape_default())?;
        }
        if let Some(sni) = &self.sni {
            write!(f, " sni={}", sni.escape_default())?;
        }
        if !self.alpn.is_empty() {
            write!(f, " alpn={}", self.alpn.join(",").escape_default())?;
        }
        write!(
            f,
            " sent={} received={}",
            human_bytes(self.bytes_sent),
            human_bytes(self.bytes_received)
        )?;
        if self.requests > 0 {
            write!(f, " requests={}", self.requests)?;
        }
        if let Some(reason) = &self.untracked {
            write!(f, " not followed: {reason};")?;
        }
        if let Some(reason) = &self.unpoolable {
            write!(f, " not balanced: {reason};")?;
        }
        if let Some(handshake) = self.handshake {
            write!(f, " handshake={}", human_duration(handshake))?;
        }
        write!(f, " in {} {}", human_duration(self.duration), self.close)?;
        if let Some(error) = &self.error {
            write!(f, ": {}", error.escape_default())?;
        }
        if let Some(kernel) = &self.kernel {
            write!(f, " srtt={} retransmits={}", human_duration(kernel.srtt), kernel.retransmits)?;
        }
        Ok(())
    }
}

impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = direction_name(self.direction);
        write!(f, "{} #{} {direction} ", rfc3339(self.time), self.connection)?;
        match (self.direction, self.process) {
            (Direction::Inbound, _) => write!(f, "{} -> ", self.client)?,
            (_, Some(process)) => write!(f, "{process} -> ")?,
            (_, None) => {}
        }
        write!(f, "{} ", self.destination)?;
        if let Some(endpoint) = self.endpoint {
            write!(f, "at {endpoint} ")?;
        }
        write!(
            f,
            "{} {}{} HTTP/{} ",
            self.method.escape_default(),
            self.authority.as_deref().unwrap_or_default().escape_default(),
            self.path.escape_default(),
            self.version
        )?;
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("-")?,
        }
        if let Some(code) = self.grpc_status {
            write!(f, " grpc-status={code}")?;
        }
        if let Some(RouteTaken { name, rule, backend }) = &self.route {
            write!(f, " route={name} rule={rule}")?;
            if let Some(backend) = backend {
                write!(f, " backend={backend}")?;
            }
        }
        write!(
            f,
            " sent={} received={}",
            human_bytes(self.request_bytes),
            human_bytes(self.response_bytes)
        )?;
        write!(f, " in {}", human_duration(self.duration))?;
        if let (Some(trace), Some(parent)) = (&self.trace_id, &self.parent_id) {
            write!(f, " trace={trace}/{parent}")?;
        }
        if self.attempts > 1 {
            write!(f, " attempts={}", self.attempts)?;
        }
        if self.end != "complete" {
            write!(f, " {}", self.end)?;
        }
        if let Some(code) = self.h2_error {
            write!(f, " h2-error={code}")?;
        }
        if let Some(error) = &self.weir_error {
            write!(f, " x-weir-error={error}")?;
        }
        Ok(())
    }
}
