//! What clients of many protocols send first, each with the verdict it must get. Shared by the
//! unit tests and the fuzz targets' seeds.

/// The expected verdict, without TLS labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Http1,
    Http2,
    Tcp,
    /// Undecided: what the driver's timer is for.
    More,
}

/// Name, bytes, verdict.
pub(crate) const PLAIN: &[(&str, &[u8], Expected)] = {
    use Expected::{Http1, Http2, More, Tcp};
    &[
        ("get", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Http1),
        ("head", b"HEAD /x?y=z HTTP/1.1\r\n", Http1),
        ("post", b"POST /submit HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", Http1),
        ("put", b"PUT /file HTTP/1.1\r\n", Http1),
        ("delete", b"DELETE /file HTTP/1.1\r\n", Http1),
        ("patch", b"PATCH /file HTTP/1.1\r\n", Http1),
        ("trace", b"TRACE / HTTP/1.1\r\n", Http1),
        ("options-asterisk", b"OPTIONS * HTTP/1.1\r\n", Http1),
        ("connect", b"CONNECT example.com:443 HTTP/1.1\r\n", Http1),
        ("connect-v6", b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n", Http1),
        ("connect-v4", b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n", Http1),
        ("connect-no-port", b"CONNECT example.com HTTP/1.1\r\n", Http1),
        ("absolute-form", b"GET http://example.com/a HTTP/1.1\r\n", Http1),
        ("absolute-ftp", b"GET ftp://example.com/a HTTP/1.0\r\n", Http1),
        ("http10", b"GET / HTTP/1.0\r\n\r\n", Http1),
        ("bare-lf", b"GET / HTTP/1.1\nHost: a\n\n", Http1),
        ("leading-crlf", b"\r\n\r\nGET / HTTP/1.1\r\n", Http1),
        ("leading-lf", b"\nGET / HTTP/1.1\r\n", Http1),
        ("webdav", b"PROPFIND /dav HTTP/1.1\r\n", Http1),
        ("longest-registered", b"UPDATEREDIRECTREF / HTTP/1.1\r\n", Http1),
        ("extension", b"X-FOO!#$%&'*+.^_`|~9 / HTTP/1.1\r\n", Http1),
        ("lower-case-method", b"get / HTTP/1.1\r\n", Http1),
        ("one-letter-method", b"M / HTTP/1.1\r\n", Http1),
        ("utf8-path", "GET /gr\u{fc}n HTTP/1.1\r\n".as_bytes(), Http1),
        ("pri-as-http1", b"PRI * HTTP/1.1\r\n", Http1),
        ("sstp", b"SSTP_DUPLEX_POST /sra_{BA195980-CD49}/ HTTP/1.1\r\n", Http1),
        ("websocket", b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Http1),
        ("docker-hijack", b"POST /v1.41/exec/1/start HTTP/1.1\r\n", Http1),
        ("gnutella-http", b"GET /uri-res/N2R?urn:sha1:A HTTP/1.1\r\n", Http1),
        ("preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2),
        ("preface-settings", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", Http2),
        ("preface-cut", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", More),
        ("preface-broken", b"PRI * HTTP/2.0\r\n\r\nSX", Tcp),
        ("preface-lf", b"PRI * HTTP/2.0\n\nSM\n\n", Tcp),
        ("preface-http3", b"PRI * HTTP/3.0\r\n", Tcp),
        ("preface-leading-crlf", b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Tcp),
        ("empty", b"", More),
        ("http1-cut", b"GET / HTTP/1.", More),
        ("http1-cut-at-cr", b"GET / HTTP/1.1\r", More),
        ("crlf-only", b"\r\n", More),
        ("smtp-helo-cut", b"EHLO mail.example.com", More),
        ("http09", b"GET /\r\n", Tcp),
        ("http12", b"GET / HTTP/1.2\r\n", Tcp),
        ("http2-version", b"GET / HTTP/2.0\r\n", Tcp),
        ("http1-two-digits", b"GET / HTTP/1.10\r\n", Tcp),
        ("http-lower-case", b"GET / http/1.1\r\n", Tcp),
        ("http-two-spaces", b"GET  / HTTP/1.1\r\n", Tcp),
        ("http-tab", b"GET\t/ HTTP/1.1\r\n", Tcp),
        ("http-space-before-crlf", b"GET / HTTP/1.1 \r\n", Tcp),
        ("http-cr-alone", b"GET / HTTP/1.1\rHost", Tcp),
        ("http-leading-space", b" GET / HTTP/1.1\r\n", Tcp),
        ("http-leading-cr", b"\rGET / HTTP/1.1\r\n", Tcp),
        ("http-relative-target", b"GET index.html HTTP/1.1\r\n", Tcp),
        ("http-nul-in-target", b"GET /\0 HTTP/1.1\r\n", Tcp),
        ("http-del-in-target", b"GET /\x7f HTTP/1.1\r\n", Tcp),
        ("http-asterisk-more", b"OPTIONS *x HTTP/1.1\r\n", Tcp),
        ("http-response", b"HTTP/1.1 200 OK\r\n", Tcp),
        ("smtp-ehlo", b"EHLO mail.example.com\r\n", Tcp),
        ("smtp-helo-lf", b"HELO localhost\n", Tcp),
        ("smtp-ehlo-literal", b"EHLO [192.0.2.1]\r\n", Tcp),
        ("smtp-mail", b"MAIL FROM:<a@example.com>\r\n", Tcp),
        ("smtp-mail-params", b"MAIL FROM:<a@example.com> SIZE=100\r\n", Tcp),
        ("auth-token", b"AUTH TOKEN x\r\n", Tcp),
        ("pop3", b"USER alice\r\n", Tcp),
        ("imap", b"a001 LOGIN alice secret\r\n", Tcp),
        ("imap-capability", b"a1 CAPABILITY\r\n", Tcp),
        ("ftp", b"USER anonymous\r\n", Tcp),
        ("irc", b"NICK weir\r\nUSER weir 0 * :weir\r\n", Tcp),
        ("irc-user", b"USER guest 0 * :Real Name\r\n", Tcp),
        ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", Tcp),
        ("ssh-no-comment", b"SSH-2.0-Go\r\n", Tcp),
        ("telnet", b"\xff\xfd\x03\xff\xfb\x18", Tcp),
        ("finger", b"alice\r\n", Tcp),
        ("gopher", b"/\r\n", Tcp),
        ("gemini", b"gemini://example.com/\r\n", Tcp),
        ("mysql-login", b"\x55\0\0\x01\x85\xa6\xff\x01\0\0\0\x01\x21\0\0\0", Tcp),
        ("mysql-query", b"\x21\0\0\0\x03select 1", Tcp),
        ("resp-ping", b"*1\r\n$4\r\nPING\r\n", Tcp),
        ("resp-hello", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", Tcp),
        ("redis-inline", b"PING\r\n", Tcp),
        ("redis-inline-set", b"SET key value\r\n", Tcp),
        ("redis-inline-set-colon", b"SET user:1 value\r\n", Tcp),
        ("redis-inline-get", b"GET user:1\r\n", Tcp),
        ("redis-inline-slash", b"GET /user\r\n", Tcp),
        ("postgres-startup", b"\0\0\0\x29\0\x03\0\0user\0postgres\0", Tcp),
        ("postgres-sslrequest", b"\0\0\0\x08\x04\xd2\x16\x2f", Tcp),
        ("memcached-get", b"get key\r\n", Tcp),
        ("memcached-set", b"set key 0 900 5\r\nhello\r\n", Tcp),
        ("memcached-set-colon", b"set user:1 0 0 5\r\nhello\r\n", Tcp),
        ("memcached-version", b"version\r\n", Tcp),
        ("memcached-binary", b"\x80\0\0\x03\0\0\0\0", Tcp),
        ("nats-connect", b"CONNECT {\"verbose\":false}\r\nPING\r\n", Tcp),
        ("nats-pub", b"PUB subject 5\r\nhello\r\n", Tcp),
        ("stomp", b"CONNECT\naccept-version:1.2\n\n\0", Tcp),
        ("mqtt", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04weir", Tcp),
        ("amqp", b"AMQP\0\0\x09\x01", Tcp),
        ("kafka", b"\0\0\0\x23\0\x12\0\0\0\0\0\x01\0\x08producer", Tcp),
        ("mongodb", b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0", Tcp),
        ("cassandra", b"\x04\0\0\0\x01\0\0\0\x16", Tcp),
        ("zookeeper", b"\0\0\0\x2d\0\0\0\0\0\0\0\0", Tcp),
        ("ldap-bind", b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", Tcp),
        ("dns", b"\0\x1d\x12\x34\x01\0\0\x01", Tcp),
        ("rdp", b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0", Tcp),
        ("smb", b"\0\0\0\x45\xffSMB", Tcp),
        ("vnc", b"RFB 003.008\n", Tcp),
        ("bittorrent", b"\x13BitTorrent protocol", Tcp),
        ("xmpp", b"<?xml version='1.0'?><stream:stream to='a'>", Tcp),
        ("json-rpc", b"{\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n", Tcp),
        ("graphite", b"local.random.diceroll 4 1700000000\n", Tcp),
        ("statsd", b"requests:1|c\n", Tcp),
        ("syslog", b"<34>1 2026-01-01T00:00:00Z host su - - msg\n", Tcp),
        ("beanstalk", b"use tube\r\n", Tcp),
        ("zabbix", b"ZBXD\x01", Tcp),
        ("thrift", b"\x80\x01\0\x01\0\0\0\x04ping", Tcp),
        ("java-rmi", b"JRMI\0\x02\x4b", Tcp),
        ("rtsp", b"OPTIONS rtsp://example.com/media.mp4 RTSP/1.0\r\n", Tcp),
        ("rtsp-asterisk", b"OPTIONS * RTSP/1.0\r\n", Tcp),
        ("sip", b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n", Tcp),
        ("sip-keepalive-then-invite", b"\r\n\r\nREGISTER sip:a SIP/2.0\r\n", Tcp),
        ("icap", b"REQMOD icap://icap.example.net/x ICAP/1.0\r\n", Tcp),
        ("msrp", b"MSRP a786hjs2 SEND\r\n", Tcp),
        ("proxy-v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET / HTTP/1.1\r\n", Tcp),
        ("proxy-v1-unknown", b"PROXY UNKNOWN\r\n", Tcp),
        ("proxy-v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Tcp),
        ("sslv2-hello", b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10", Tcp),
        ("tls-alert", b"\x15\x03\x01\0\x02\x02\x28", Tcp),
        ("tls-application-data", b"\x17\x03\x03\0\x10", Tcp),
        ("tls-server-hello", b"\x16\x03\x03\0\x7a\x02\0\0\x76\x03\x03", Tcp),
        ("tls-empty-record", b"\x16\x03\x01\0\0", Tcp),
        ("tls-record-too-long", b"\x16\x03\x01\x40\x01", Tcp),
        ("tls-major-version", b"\x16\x02\x01", Tcp),
        ("tls-hello-too-short", b"\x16\x03\x01\0\x80\x01\0\0\x28", Tcp),
        ("tls-hello-too-long", b"\x16\x03\x01\x40\0\x01\x03", Tcp),
        ("tls-hello-version", b"\x16\x03\x01\0\x80\x01\0\0\x7c\x02", Tcp),
        ("tls-cut", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", More),
        ("zeros", b"\0\0\0\0\0\0\0\0", Tcp),
        ("long-word", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Tcp),
        ("base64", b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsu", Tcp),
    ]
};

/// A `ClientHello` to build: what varies between clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hello<'a> {
    /// Minor version in the record header.
    pub(crate) record_minor: u8,
    /// Minor version in the hello.
    pub(crate) hello_minor: u8,
    pub(crate) sni: Option<&'a [u8]>,
    pub(crate) alpn: &'a [&'a [u8]],
    /// GREASE extensions and values, as Chrome sends them.
    pub(crate) grease: bool,
    /// Bytes of key share: 1216 is X25519MLKEM768.
    pub(crate) key_share: usize,
    /// False for the oldest form, that ends after the compression methods.
    pub(crate) extensions: bool,
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Self {
            record_minor: 1,
            hello_minor: 3,
            sni: Some(b"example.com"),
            alpn: &[b"h2", b"http/1.1"],
            grease: true,
            key_share: 32,
            extensions: true,
        }
    }
}

impl Hello<'_> {
    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = vec![3, self.hello_minor];
        body.extend([0x5a; 32]);
        body.push(32);
        body.extend([0xa5; 32]);
        let suites: &[u8] = &[0x0a, 0x0a, 0x13, 0x01, 0xc0, 0x2f];
        put(&mut body, 2, if self.grease { suites } else { &suites[2..] });
        put(&mut body, 1, &[0]);
        if self.extensions {
            put(&mut body, 2, &self.extension_list());
        }
        let mut message = vec![1];
        put(&mut message, 3, &body);
        message
    }

    fn extension_list(&self) -> Vec<u8> {
        let mut list = Vec::new();
        if self.grease {
            extension(&mut list, 0x1a1a, &[]);
        }
        if let Some(name) = self.sni {
            let mut names = vec![0];
            put(&mut names, 2, name);
            let mut content = Vec::new();
            put(&mut content, 2, &names);
            extension(&mut list, 0, &content);
        }
        let mut share = vec![0x11, 0xec];
        put(&mut share, 2, &vec![0x77; self.key_share]);
        let mut shares = Vec::new();
        put(&mut shares, 2, &share);
        extension(&mut list, 51, &shares);
        if !self.alpn.is_empty() {
            let mut names = Vec::new();
            for name in self.alpn {
                put(&mut names, 1, name);
            }
            let mut content = Vec::new();
            put(&mut content, 2, &names);
            extension(&mut list, 16, &content);
        }
        // Supported versions, and one that tls-parser's typed parser rejects.
        extension(&mut list, 43, &[4, 3, 4, 3, 3]);
        extension(&mut list, 35, &[]);
        extension(&mut list, 23, &[0]);
        if self.grease {
            extension(&mut list, 0xfafa, &[0]);
        }
        list
    }

    /// The message in records of at most `size` bytes of payload.
    pub(crate) fn records(&self, size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in self.message().chunks(size) {
            out.extend([22, 3, self.record_minor]);
            put(&mut out, 2, chunk);
        }
        out
    }
}

fn extension(list: &mut Vec<u8>, kind: u16, content: &[u8]) {
    list.extend(kind.to_be_bytes());
    put(list, 2, content);
}

/// Appends `bytes` behind their length in `width` bytes.
fn put(out: &mut Vec<u8>, width: usize, bytes: &[u8]) {
    out.extend(&bytes.len().to_be_bytes()[8 - width..]);
    out.extend(bytes);
}
