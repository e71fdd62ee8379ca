using System.Diagnostics;
using FramePin.Core.Machines;

namespace FramePin.Server.Telemetry;

/// <summary>Steps of a pin in the daemon, in order. A way to pin that has no use for a step passes over it.</summary>
internal enum PinStep
{
    /// <summary>The vector is made or found, and counted against the limits.</summary>
    Create,

    /// <summary>The frames are taken, and perhaps waited for.</summary>
    Fill,

    /// <summary>The answer is built.</summary>
    Answer,

    /// <summary>The caller's attachment holds the frames.</summary>
    Hold,

    /// <summary>The vector gets its name and hangs on its lease.</summary>
    Publish,

    /// <summary>The pin is counted and the answer may be sent.</summary>
    Done,
}

/// <summary>Told when a pin enters a step. An exception from here fails the pin, which gives back all it has.</summary>
internal interface IPinSteps : IPinObserver
{
    void Entered(PinStep step);
}

/// <summary>Begins to follow a pin; null when nobody wants to know.</summary>
/// <param name="span">The pin's span; null when it has none of its own.</param>
internal delegate IPinSteps? PinTracing(Activity? span);
