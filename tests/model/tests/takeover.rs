//! A node that takes over what another node has validated serves it for no longer than that node.

use session_cache_model::{
    System,
    takeover::{Guard::CountsFromValidation, Takeover},
};

const UNMARKED: Takeover = Takeover {
    has_mark: false,
    lag: 0,
    ttl: 2,
    end: 4,
    validations: 4,
    without: 0,
};

const LAGGING: Takeover = Takeover {
    has_mark: true,
    lag: 3,
    ttl: 4,
    end: 7,
    validations: 3,
    ..UNMARKED
};

const SYSTEMS: [(&str, Takeover); 2] = [
    ("an end at the provider", UNMARKED),
    ("a provider that lags behind a mark", LAGGING),
];

#[test]
fn record_of_another_node_is_served_for_its_own_life() {
    for (name, system) in SYSTEMS {
        let report = system.check();
        report.print(name);
        assert!(report.trace.is_none(), "{name}: {report}");
    }
}

#[test]
fn life_counted_from_arrival_exceeds_the_bound() {
    for (name, system) in SYSTEMS {
        let report = system.without(CountsFromValidation).check();
        assert!(report.trace.is_some(), "{name}");
        println!("CountsFromValidation: {} states: {name}", report.states);
        if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
            println!("{report}");
        }
    }
}
