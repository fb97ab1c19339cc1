//! Why a message needs a connection of its own: recipients read its bytes in different ways, so that one
//! client's could become another's, or it says something of the connection that others must not share.

/// Defines the reasons, each with its name: the values of a metric's label.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $name:literal,)*) => {
        /// Why messages have to stay on one connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Unpoolable {
            $($(#[doc = $doc])+ $reason,)*
        }

        impl Unpoolable {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// The name in records and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The messages cannot be followed.
    Unfollowed = "unfollowed",
    /// HTTP/1.0, whose connections last for one request (RFC 9112 §9.3).
    Http10 = "http_1_0",
    /// `Upgrade`, CONNECT, or a response that switches protocols.
    Upgrade = "upgrade",
    /// NTLM, Negotiate or Kerberos, which authenticate a connection (RFC 4559 §6).
    Authentication = "authentication",
    /// No `Host`, or several (RFC 9112 §3.2).
    Host = "host",
    /// A target whose authority is not that of `Host`.
    Target = "target",
    /// A folded line, a line that ends in a bare LF, or a space before a colon.
    Lines = "lines",
    /// A length or codings of the body that are given in an unusual way.
    Framing = "framing",
    /// A response that ends with the connection.
    UntilClose = "until_close",
    /// A response that is complete before its request is.
    EarlyAnswer = "early_answer",
    /// `Connection: close`.
    Close = "close",
}

// === impl Unpoolable ===

impl Unpoolable {
    /// Whether the message itself may go on a connection that others have used: nothing comes behind it.
    #[must_use]
    pub const fn may_be_last(self) -> bool {
        matches!(self, Self::Close)
    }
}
