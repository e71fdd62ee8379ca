using FramePin.Server.Configuration;
using FramePin.Server.Machines;

namespace FramePin.Server.Services;

/// <summary>Address spaces over the wire; one file a call.</summary>
internal sealed partial class AddressSpaceService(MachineRegistry machines, DaemonOptions options)
    : V1.AddressSpaceService.AddressSpaceServiceBase;
