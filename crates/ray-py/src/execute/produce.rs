//! The producer's end of a call that gives its results one after another: items out of the user's generator, as fast as the caller takes them.

use crate::object_ref::{Home, ObjectRef};
use crate::values;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use ray_proto::ids::MAX_RETURNS;
use ray_proto::{ObjectId, Payload, Value};
use ray_worker::{CallWork, Library, Permit, Woken};
use std::sync::Arc;

/// A producer that has waited this long for its caller lets go of its CPU.
const PATIENCE_US: u64 = 5_000;

/// How far a call has come. An attempt that is not the first makes items again that the caller has; they are counted and not sent.
pub(crate) struct Producer {
    made: u64,
    have: u64,
    /// What of these was lost meanwhile and is sent once more.
    again: Vec<(u64, u64)>,
    gather: bool,
}

impl Producer {
    /// None: the call returns its results at once.
    pub(crate) fn new(work: &CallWork) -> Option<Self> {
        work.call.stream.as_ref().map(|stream| Producer { made: 0, have: stream.have, again: stream.again.clone(), gather: stream.gather })
    }

    pub(crate) fn gathers(&self) -> bool {
        self.gather
    }

    /// One more item. Returns what may be done about the next one.
    pub(crate) fn push(&mut self, library: &Library, work: &CallWork, item: &Bound<'_, PyAny>) -> PyResult<Permit> {
        if self.made >= self.have || self.is_lost(self.next()) {
            if self.made >= MAX_RETURNS {
                let name = &work.template.name;
                return Err(PyValueError::new_err(format!("{name} yields more than {MAX_RETURNS} items, the most that one call can have")));
            }
            let (payload, _alive) = values::encode(item, library)?;
            return Ok(self.push_payload(library, work, payload));
        }
        self.made += 1;
        Ok(self.permit(library, work))
    }

    fn is_lost(&self, index: u64) -> bool {
        let at = self.again.partition_point(|(_, last)| *last < index);
        self.again.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub(crate) fn push_payload(&mut self, library: &Library, work: &CallWork, payload: Payload) -> Permit {
        self.made += 1;
        library.yield_item(work, self.made, payload)
    }

    /// What may be done about the next item. One that the caller has needs no credit, only a caller.
    pub(crate) fn permit(&self, library: &Library, work: &CallWork) -> Permit {
        library.permit(work, self.next())
    }

    pub(crate) fn next(&self) -> u64 {
        self.made + 1
    }

    /// The results of the call whose generator has ended. The references in them are alive until the second half is dropped.
    pub(crate) fn results<'py>(&self, py: Python<'py>, library: &Arc<Library>, work: &CallWork) -> PyResult<(Vec<Payload>, Bound<'py, PyAny>)> {
        if self.made < self.have {
            return Ok((vec![Payload { value: self.replay_error(work), refs: vec![] }], py.None().into_bound(py)));
        }
        let value = match self.gather {
            false => py.None().into_bound(py),
            true => {
                let reference = |index| Bound::new(py, ObjectRef::inside_value(Home::Engine(library.clone()), ObjectId::new(work.from, work.call.task, index)));
                let references = PyList::new(py, (1..=self.made).map(reference).collect::<PyResult<Vec<_>>>()?)?;
                py.import("ray._core.generators")?.getattr("DynamicObjectRefGenerator")?.call1((references,))?
            }
        };
        let (payload, _alive) = values::encode(&value, library)?;
        Ok((vec![payload], value))
    }

    fn replay_error(&self, work: &CallWork) -> Value {
        let text = format!(
            "{} was run again after a failure and yielded {} items, fewer than the {} that its caller already has.\nhint: a generator that may be retried has to yield the same items each time; set max_retries=0 for one that does not",
            work.template.name, self.made, self.have
        );
        ray_proto::value::system_error("stream_replay", &[("message", &text)])
    }
}

/// Run a generator to its end, or until nobody reads it any more.
pub(crate) fn drive(library: &Library, work: &CallWork, producer: &mut Producer, generator: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = generator.py();
    let not_a_generator = |_| {
        let what = generator.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!(
            "{} gives its results one after another, so it has to be a generator; it returned a value of type {what}",
            work.template.name
        ))
    };
    let mut items = generator.try_iter().map_err(not_a_generator)?;
    while let Some(item) = items.next() {
        let mut permit = producer.push(library, work, &item?)?;
        if permit == Permit::Wait {
            permit = wait_for_credit(py, library, work, producer.next())?;
        }
        if permit == Permit::Closed {
            // Raises GeneratorExit where the generator stands, so that its `finally` blocks run.
            if items.hasattr(intern!(py, "close"))? {
                items.call_method0(intern!(py, "close"))?;
            }
            return Ok(());
        }
    }
    Ok(())
}

fn wait_for_credit(py: Python<'_>, library: &Library, work: &CallWork, index: u64) -> PyResult<Permit> {
    let mut blocked = false;
    let permit = loop {
        if library.check().is_err() {
            break Ok(Permit::Closed);
        }
        let Some(gate) = library.credit_gate(work, index) else {
            match library.permit(work, index) {
                Permit::Wait => continue,
                permit => break Ok(permit),
            }
        };
        match py.detach(|| library.wait_at(&gate, (!blocked).then_some(PATIENCE_US))) {
            Woken::Open => {}
            Woken::TimedOut => {
                library.credit_blocks();
                blocked = true;
            }
            Woken::Interrupted => {
                if let Err(raised) = py.check_signals() {
                    break Err(raised);
                }
            }
        }
    };
    if blocked {
        library.credit_came();
    }
    permit
}
