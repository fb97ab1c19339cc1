use super::*;

fn ports() -> Ports {
    Ports { skip_outbound: Some("4406".into()), ..Ports::default() }
}
