//! A request as the server reads it: which call it is comes out when it is read.

use std::fmt;

use futures_util::future::{BoxFuture, FutureExt};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    CALLS, Call, ControlError, Conversation, ErrorCode, VERSION, reply_line, request_line,
};

/// A request that is understood.
pub struct Request {
    workload: Option<String>,
    call: Box<dyn AnyCall>,
}

/// How the arguments of the call with this name are read.
pub(super) struct Decoder {
    /// The call's name.
    pub(super) name: &'static str,
    read: fn(Value) -> serde_json::Result<Box<dyn AnyCall>>,
}

/// A call of any type.
trait AnyCall: Send {
    fn line(&self, workload: Option<&str>) -> serde_json::Result<Vec<u8>>;

    /// See [`Call::changes`].
    fn changes(&self) -> bool;

    /// The line with the reply.
    fn answer<'a>(
        self: Box<Self>,
        on: &'a mut Conversation<'_>,
    ) -> BoxFuture<'a, Result<Vec<u8>, ControlError>>;
}

/// Just enough to tell another version from garbage.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[expect(dead_code, reason = "read before, and allowed here")]
    version: u32,
    #[serde(default)]
    workload: Option<String>,
    command: Command,
}

/// A call that is not read yet: `"name"` or `{"name":arguments}`.
struct Command {
    name: String,
    arguments: Value,
}

/// The reader of one call.
pub(super) const fn decoder<C: Call>() -> Decoder {
    Decoder {
        name: C::NAME,
        read: |arguments| Ok(Box::new(serde_json::from_value::<C>(arguments)?)),
    }
}

// === impl Request ===

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// Where it is not understood, or in another version.
    pub fn parse(line: &[u8]) -> Result<Self, ControlError> {
        let syntax = |error: serde_json::Error| {
            ControlError::bad_request(format!("invalid request: {error}"))
        };
        let Versioned { version } = serde_json::from_slice(line).map_err(syntax)?;
        if version != VERSION {
            return Err(ControlError {
                code: ErrorCode::Version,
                message: format!(
                    "control protocol {version} is not supported: this weir ({}) uses {VERSION}; \
                     use the same version of client and daemon",
                    env!("CARGO_PKG_VERSION")
                ),
            });
        }
        let Line { workload, command: Command { name, arguments }, .. } =
            serde_json::from_slice(line).map_err(syntax)?;
        let Some(decoder) = CALLS.iter().find(|call| call.name == name) else {
            let known = CALLS.each_ref().map(|call| format!("`{}`", call.name)).join(", ");
            return Err(ControlError::bad_request(format!(
                "invalid request: unknown command `{name}`; known are {known}"
            )));
        };
        Ok(Self { workload, call: (decoder.read)(arguments).map_err(syntax)? })
    }

    /// As a line that is read as the same request.
    ///
    /// # Errors
    /// Where an argument has no JSON form.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        self.call.line(self.workload.as_deref())
    }

    /// Carries it out, and returns the line with the answer.
    pub(in crate::admin) async fn answer(
        self,
        on: &mut Conversation<'_>,
    ) -> Result<Vec<u8>, ControlError> {
        on.caller.permit(self.call.changes())?;
        on.set_workload(self.workload);
        self.call.answer(on).await
    }
}

impl<C: Call> AnyCall for C {
    fn line(&self, workload: Option<&str>) -> serde_json::Result<Vec<u8>> {
        request_line(workload, self)
    }

    fn changes(&self) -> bool {
        Call::changes(self)
    }

    fn answer<'a>(
        self: Box<Self>,
        on: &'a mut Conversation<'_>,
    ) -> BoxFuture<'a, Result<Vec<u8>, ControlError>> {
        async move {
            let reply = Call::answer(*self, on).await?;
            reply_line::<C>(&reply).map_err(|error| ControlError::failed(error.to_string()))
        }
        .boxed()
    }
}

// === impl Command ===

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command: \"NAME\" or {\"NAME\":ARGUMENTS}")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Command, E> {
                Ok(Command { name: name.to_owned(), arguments: Value::Null })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
                let Some((name, arguments)) = map.next_entry()? else {
                    return Err(A::Error::custom("expected the name of a command"));
                };
                match map.next_key::<String>()? {
                    None => Ok(Command { name, arguments }),
                    Some(more) => Err(A::Error::custom(format!("unexpected `{more}`"))),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}
