//! Urgent data, alone and in the middle of bulk.

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

#[tokio::test]
async fn an_urgent_byte_stays_in_its_place() {
    let mut rig = Rig::new().await;
    SockRef::from(&rig.server).set_out_of_band_inline(true).unwrap();
    for (before, byte) in [(&b"abc"[..], b'!'), (b"", b'?')] {
        rig.client.write_all(before).await.unwrap();
        urge(&rig.client, byte);
        rig.client.write_all(b"def").await.unwrap();
        let mut read = vec![0; before.len() + 4];
        rig.server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [before, &[byte], b"def"].concat());
    }
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"");
}

#[tokio::test]
async fn an_urgent_byte_is_urgent_for_whoever_asks_out_of_line() {
    for alone in [false, true] {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"abc").await.unwrap();
        if alone {
            rig.server.read_exact(&mut [0; 3]).await.unwrap();
        }
        urge(&rig.client, b'!');
        assert_eq!(urgent(&rig.server).await, b'!');
        rig.client.write_all(b"def").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let rest: &[u8] = if alone { b"def" } else { b"abcdef" };
        assert_eq!(read_all(&mut rig.server).await.unwrap(), rest);
        assert_eq!(rig.counters.client_to_upstream(), 7);
    }
}

/// The kernel ends splice(2) in front of an urgent byte with 0, as at the end of the stream.
#[tokio::test]
async fn nothing_behind_an_urgent_byte_in_bulk_is_lost() {
    const BEFORE: usize = 16 << 20;
    const BEHIND: usize = 4 << 20;
    for inline in [false, true] {
        let Rig { mut client, mut server, task, counters, .. } = Rig::new().await;
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
            match server.read(&mut chunk).await.unwrap() {
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
