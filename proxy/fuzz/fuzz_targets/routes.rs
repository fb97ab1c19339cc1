//! Routes as they are in a directory of objects: anything is taken over as a whole or refused, and what is in force
//! can be followed, explained and taken back.
//!
//! The first line is a request as `weir explain` has it; what follows are objects.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::service::{Delta, Origin, Services, kubernetes::parse};
use weir_http::RequestView;

/// The service that requests are for, and one that they can go to.
const SERVICES: &str = "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{name: web, \
                        port: 80}]}\n---\nkind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.96.0.2, \
                        ports: [{port: 80}]}\n";

fuzz_target!(|text: &str| {
    let (request, objects) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(deltas) = parse(objects) else { return };
    let routes: Vec<_> = deltas.into_iter().filter(|it| matches!(it, Delta::Route(_))).collect();
    let count = routes.len();
    let services = Services::default();
    services.apply(Origin::Directory, parse(SERVICES).expect("objects")).expect("services");
    services.apply(Origin::Directory, routes).expect("a route that was read is taken over");
    let report = services.report_routes();
    assert!(report.routes.len() <= count);
    for route in &report.routes {
        assert!(!route.rules.is_empty(), "a route has rules");
        assert!(route.in_force.iter().all(|it| it == "default/a:80" || it == "default/b:80"));
        for rule in &route.rules {
            let total: f64 = rule.backends.iter().map(|it| it.share).sum();
            assert!(rule.backends.is_empty() || total < 1.000_001, "{total}");
        }
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let words: Vec<_> = words.collect();
    let fields: Vec<_> = words.chunks_exact(2).map(|it| (it[0], it[1])).collect();
    let view = RequestView::new(method, Some("shop"), target, &fields);
    let address = "10.96.0.1:80".parse().expect("an address");
    let explained = services.report_request(address, None, &view);
    let is_any = report.routes.iter().any(|it| it.in_force.iter().any(|it| it == "default/a:80"));
    assert!(explained.is_none() || is_any, "without a route there is no rule");
});
