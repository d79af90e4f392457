//! A process at its file limit reads a link. Alone in its file: the limit is the whole process's.

use ray_proto::wire::decode;
use ray_shm::link::{pair, Filled, Flushed, Reader, Writer};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::sync::Arc;

#[test]
fn a_descriptor_without_room_is_lost_and_the_others_stay_with_their_frames() {
    let (a, b) = pair().unwrap();
    let (mut writer, mut reader) = (Writer::new(Arc::new(a)), Reader::new(Arc::new(b)));
    for number in 1u64..=3 {
        writer.queue_with_fd(&number, pair().unwrap().0);
    }
    assert_eq!(writer.flush(), Flushed::All);
    let room = getrlimit(Resource::Nofile);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let current = if seen.len() == 1 { Some(0) } else { room.current };
        setrlimit(Resource::Nofile, Rlimit { current, maximum: room.maximum }).unwrap();
        assert_eq!(reader.fill(), Filled::Data);
        while let Ok(Some(bytes)) = reader.next_frame() {
            let number = decode::<u64>(bytes).unwrap();
            seen.push((number, reader.take_fd().is_some()));
        }
    }
    assert_eq!(seen, [(1, true), (2, false), (3, true)]);
}
