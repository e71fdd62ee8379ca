using FramePin.Server.Configuration;
using FramePin.Server.Machines;

namespace FramePin.Server.Services;

/// <summary>Devices over the wire; one file a call.</summary>
internal sealed partial class DeviceService(
    MachineRegistry machines, PinTransactions pins, DaemonOptions options) : V1.DeviceService.DeviceServiceBase;
