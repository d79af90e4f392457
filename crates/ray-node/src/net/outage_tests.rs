//! Networks that swallow packets: two nodes over loopback in a network namespace of their own, and `iptables`.

use super::tests::{check, pair};
use super::*;

fn succeeds(line: &str) -> bool {
    let mut words = line.split(' ');
    std::process::Command::new(words.next().unwrap()).args(words).status().is_ok_and(|status| status.success())
}

fn command(line: &str) {
    assert!(succeeds(line), "{line}");
}

/// For as long as packets are dropped, and a second more at most, nothing comes; then everything does.
#[test]
#[ignore = "takes 15 s, and a network namespace of its own"]
fn a_network_that_swallows_packets_for_a_while_is_found_again_at_once() {
    in_a_network_of_its_own("a_network_that_swallows_packets_for_a_while_is_found_again_at_once", drop_packets_for_a_while);
}

/// What the cables of three machines do to two of them when they are pulled in turn, for 0.4 s each.
#[test]
#[ignore = "takes 30 s, and a network namespace of its own"]
fn a_network_that_comes_and_goes_is_used_while_it_is_there() {
    in_a_network_of_its_own("a_network_that_comes_and_goes_is_used_while_it_is_there", drop_packets_again_and_again);
}

fn in_a_network_of_its_own(name: &str, test: fn()) {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    if devices.matches(':').count() == 1 {
        command("ip link set lo up");
        return test();
    }
    if !succeeds("unshare -rn iptables -L INPUT") {
        return println!("skipped: this user makes no network namespace, or there is no iptables");
    }
    let myself = std::env::current_exe().unwrap();
    command(&format!("unshare -rn {} --exact net::outage_tests::{name} --ignored --nocapture", myself.display()));
}

fn drop_packets_again_and_again() {
    let (mut a, mut b) = pair();
    let (mut sent, mut echoed, mut echoed_at, mut longest) = (0, 0, 0, 0);
    let started = now_us();
    let mut is_cut = false;
    while now_us() < started + 30_000_000 {
        let now = now_us();
        // The period is no multiple of any time after which something is tried again.
        let cut = matches!((now - started) % 1_470_000, 0..430_000 | 530_000..900_000) && now > started + 1_000_000;
        if std::mem::replace(&mut is_cut, cut) != cut {
            command(if cut { "iptables -A INPUT -p tcp -j DROP" } else { "iptables -F INPUT" });
        }
        if now > started + sent * 100_000 {
            a.say(1, sent);
            sent += 1;
        }
        a.turn(1_000);
        b.turn(1_000);
        b.heard().into_iter().for_each(|seq| b.say(0, seq));
        let before = echoed;
        check(&mut a, &mut echoed);
        if echoed > before {
            longest = longest.max(if echoed_at > 0 { now_us() - echoed_at } else { 0 });
            echoed_at = now_us();
        }
    }
    command("iptables -F INPUT");
    println!("the longest time without an echo was {} ms; a node that hears nothing for 4000 ms ends", longest / 1000);
    a.until("the last echo", |a| {
        b.turn(0);
        b.heard().into_iter().for_each(|seq| b.say(0, seq));
        check(a, &mut echoed);
        (echoed == sent).then_some(())
    });
}

fn drop_packets_for_a_while() {
    let (mut a, mut b) = pair();
    a.say(1, 0);
    let mut next = 0;
    for dropped_us in [500_000, 1_500_000, 3_000_000, 3_900_000] {
        let expected = next + 1;
        b.until("the message", |b| {
            a.turn(0);
            check(b, &mut next);
            (next == expected).then_some(())
        });
        command("iptables -A INPUT -p tcp -j DROP");
        let since = now_us();
        a.say(1, next);
        let mut cut_off_at = None;
        while now_us() < since + dropped_us {
            a.turn(1_000);
            b.turn(1_000);
            if cut_off_at.is_none() && now_us() > since + 2_000 && a.net.unacknowledged_by_kernel(NodeIndex(1)) == Some(true) {
                cut_off_at = Some(now_us() - since);
            }
        }
        command("iptables -F INPUT");
        let healed = now_us();
        b.until("the message", |b| {
            a.turn(0);
            check(b, &mut next);
            (next == expected + 1).then_some(())
        });
        let (late, seen) = ((now_us() - healed) / 1000, cut_off_at.map(|us| us / 1000));
        println!("dropped for {} ms: cut off seen after {seen:?} ms, back {late} ms after", dropped_us / 1000);
        assert!(late < 1_200 && seen.is_some() == (dropped_us > 1_000_000));
        a.say(1, next);
    }
}
