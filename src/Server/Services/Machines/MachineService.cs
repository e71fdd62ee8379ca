using FramePin.Server.Configuration;
using FramePin.Server.Machines;

namespace FramePin.Server.Services;

/// <summary>Machines, their audit and their fault plan over the wire; one file a call.</summary>
internal sealed partial class MachineService(MachineRegistry machines, DaemonOptions options)
    : V1.MachineService.MachineServiceBase;
