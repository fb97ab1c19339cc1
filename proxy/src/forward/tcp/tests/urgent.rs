//! Urgent data, alone and in the middle of bulk. Peers read without tokio, which waits for more behind
//! an urgent byte where there is more.

use std::io::Read as _;

use socket2::SockRef;

use super::*;

/// Sends one urgent byte behind what has been written.
fn urge(stream: &TcpStream, byte: u8) {
    assert_eq!(SockRef::from(stream).send_out_of_band(&[byte]).unwrap(), 1);
}

/// Waits for the urgent byte, and takes it from out of line.
async fn urgent(stream: &TcpStream) -> u8 {
    let mut byte = [std::mem::MaybeUninit::new(0)];
    loop {
        // tokio has no event for it.
        match SockRef::from(stream).recv_out_of_band(&mut byte) {
            // SAFETY: initialised above.
            Ok(1) => return unsafe { byte[0].assume_init() },
            _ => tokio::task::yield_now().await,
        }
    }
}

/// Reads what there is; nothing at the end of the stream.
async fn some(stream: &TcpStream, chunk: &mut [u8]) -> usize {
    loop {
        match (&*SockRef::from(stream)).read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::task::yield_now().await;
            }
            read => return read.unwrap(),
        }
    }
}

/// Reads up to the end of the stream.
async fn everything(stream: &TcpStream) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), [0; 64]);
    loop {
        match some(stream, &mut chunk).await {
            0 => return all,
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
}

#[tokio::test]
async fn an_urgent_byte_stays_in_its_place() {
    let mut rig = Rig::new().await;
    SockRef::from(&rig.server).set_out_of_band_inline(true).unwrap();
    for (before, byte) in [(&b"abc"[..], b'!'), (b"", b'?')] {
        rig.client.write_all(before).await.unwrap();
        urge(&rig.client, byte);
        rig.client.write_all(b"def").await.unwrap();
    }
    rig.client.shutdown().await.unwrap();
    assert_eq!(everything(&rig.server).await, b"abc!def?def");
}

#[tokio::test]
async fn an_urgent_byte_is_urgent_for_whoever_asks_out_of_line() {
    for alone in [false, true] {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"abc").await.unwrap();
        if alone {
            assert_eq!(some(&rig.server, &mut [0; 3]).await, 3);
        }
        urge(&rig.client, b'!');
        assert_eq!(urgent(&rig.server).await, b'!');
        rig.client.write_all(b"def").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let rest: &[u8] = if alone { b"def" } else { b"abcdef" };
        assert_eq!(everything(&rig.server).await, rest);
        assert_eq!(rig.counters.client_to_upstream(), 7);
    }
}

/// The kernel ends splice(2) in front of an urgent byte with 0, as at the end of the stream.
#[tokio::test]
async fn nothing_behind_an_urgent_byte_in_bulk_is_lost() {
    const BEFORE: usize = 16 << 20;
    const BEHIND: usize = 4 << 20;
    for inline in [false, true] {
        let Rig { mut client, server, task, counters, .. } = Rig::new().await;
        SockRef::from(&server).set_out_of_band_inline(inline).unwrap();
        let sending = tokio::spawn(async move {
            client.write_all(&vec![1; BEFORE]).await.unwrap();
            urge(&client, 2);
            client.write_all(&vec![3; BEHIND]).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let (mut received, mut chunk) = ([0_usize; 4], vec![0; 256 << 10]);
        loop {
            match some(&server, &mut chunk).await {
                0 => break,
                n => chunk[..n].iter().for_each(|byte| received[usize::from(*byte)] += 1),
            }
        }
        assert_eq!(received, [0, BEFORE, usize::from(inline), BEHIND]);
        assert_eq!(counters.client_to_upstream() as usize, BEFORE + 1 + BEHIND);
        drop((sending.await.unwrap(), server));
        assert_eq!(task.await.unwrap().end, TcpEnd::Finished);
    }
}
