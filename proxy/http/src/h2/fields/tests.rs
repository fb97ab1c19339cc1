//! Lists of RFC 7541's examples, and lists that go from any tables to any others.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The fields of a list, as text.
fn fields(list: &FieldList) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    list.iter().map(|(name, value, _)| (text(&name), text(&value))).collect()
}

/// RFC 7541 appendices C.3 and C.4, through a second table.
#[test]
fn requests_of_appendix_c() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let expected: [&[(&str, &str)]; 3] = [
        &[(":scheme", "http"), (":path", "/")],
        &[(":scheme", "http"), (":path", "/"), ("cache-control", "no-cache")],
        &[(":scheme", "https"), (":path", "/index.html"), ("custom-key", "custom-value")],
    ];
    for blocks in [plain, huffman] {
        let mut shared = Shared::default();
        let (mut first, mut second) = (ListDecoder::new(4096), ListDecoder::new(4096));
        let mut encoder = ListEncoder::default();
        let mut list = FieldList::default();
        for ((block, expected), size) in blocks.iter().zip(expected).zip([57, 110, 164]) {
            let mut all = vec![(":method", "GET")];
            all.extend_from_slice(expected);
            all.insert(3, (":authority", "www.example.com"));
            let all: Vec<_> = all.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            first.decode(&bytes(block), 1000, &mut shared, &mut list).unwrap();
            assert_eq!(fields(&list), all);
            assert_eq!((list.check_request(), first.entries.size()), (Ok(()), size));
            let mut out = Vec::new();
            encoder.encode(&list, &mut out);
            second.decode(&out, 1000, &mut Shared::default(), &mut list).unwrap();
            assert_eq!(fields(&list), all);
        }
    }
}
