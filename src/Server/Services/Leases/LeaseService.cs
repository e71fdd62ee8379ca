using FramePin.Server.Configuration;
using FramePin.Server.Machines;

namespace FramePin.Server.Services;

/// <summary>Leases over the wire; one file a call.</summary>
internal sealed partial class LeaseService(
    MachineRegistry machines, DaemonOptions options, IHostApplicationLifetime lifetime)
    : V1.LeaseService.LeaseServiceBase;
