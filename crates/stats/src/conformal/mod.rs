//! Conformal prediction: intervals and sets that hold the truth as often as was asked for.
//!
//! Every method turns answers of any model into something that holds the truth with probability `1 − alpha`. Three kinds keep what
//! calibration rows taught: [`Intervals`] for numbers, [`Sets`] for classes, [`Regions`] for several numbers at once. An [`Exchange`] says
//! how much a calibration row counts for a new one (its group, its weight under covariate or label shift) and goes with all three.
//! [`Online`] methods follow a [`Stream`]; [`Betting`] methods watch one for change.

mod exchange;
mod interval;
mod martingale;
mod online;
mod region;
mod residual_forest;
mod set;

mod label_shift;
mod mondrian;
mod weighted;

mod cqr;
mod cv_plus;
mod jackknife_plus;
mod jackknife_plus_ab;
mod split;

mod aps;
mod lac;
mod raps;

mod aci;
mod dtaci;
mod enbpi;
mod nexcp;
mod pid;
mod quantile_tracker;
mod spci;

mod plug_in;
mod simple_jumper;
mod simple_mixture;

mod balls;
mod dqr;

pub use aci::AciState;
pub use cqr::{CqrFit, Sides};
pub use cv_plus::PlusFit;
pub use dqr::DqrFit;
pub use dtaci::DtaciState;
pub use enbpi::EnbpiState;
pub use exchange::{AnyExchange, Exchange, Place, Row};
pub use interval::{AnyBounds, AnyIntervals, Bounds, Calibrated, Held, Interval, Intervals, exact};
pub use jackknife_plus_ab::{Aggregate, BagFit, left_out};
pub use martingale::{AnyBets, AnyBetting, Betting, Watch};
pub use mondrian::By;
pub use nexcp::NexcpState;
pub use online::{AnyOnline, AnyRun, Forecast, Online, Recent, Stream, Tails, Tally, Tracker, Tracking};
pub use pid::{PidState, Scorecaster};
pub use plug_in::PlugInState;
pub use quantile_tracker::TrackerState;
pub use region::{AnyRegions, CalibratedRegions, Region, Regions, Score, Shape};
pub use residual_forest::ResidualForest;
pub use set::{AnySets, CalibratedSets, Sets};
pub use simple_jumper::JumperState;
pub use simple_mixture::MixtureState;
pub use spci::SpciState;
pub use split::SplitFit;

acclimate_core::methods! {
    /// Intervals for numbers, from held-out predictions.
    pub static INTERVALS: dyn AnyIntervals = [
        cqr::Cqr,
        cv_plus::CvPlus,
        jackknife_plus::JackknifePlus,
        jackknife_plus_ab::JackknifePlusAb,
        split::Split,
    ];
}

acclimate_core::methods! {
    /// Sets of classes, from held-out probabilities.
    pub static SETS: dyn AnySets = [aps::Aps, lac::Lac, raps::Raps];
}

acclimate_core::methods! {
    /// How calibration rows count for a new one.
    pub static EXCHANGES: dyn AnyExchange = [label_shift::LabelShift, mondrian::Mondrian, weighted::Weighted];
}

acclimate_core::methods! {
    /// Intervals on a stream.
    pub static ONLINE: dyn AnyOnline = [
        aci::Aci,
        dtaci::Dtaci,
        enbpi::Enbpi,
        nexcp::Nexcp,
        pid::Pid,
        quantile_tracker::QuantileTracker,
        spci::Spci,
    ];
}

acclimate_core::methods! {
    /// Bets against exchangeable p-values.
    pub static BETS: dyn AnyBetting = [plug_in::PlugIn, simple_jumper::SimpleJumper, simple_mixture::SimpleMixture];
}

acclimate_core::methods! {
    /// Regions for several numbers at once.
    pub static REGIONS: dyn AnyRegions = [balls::Balls, dqr::Dqr];
}
