using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Server.Mapping;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// The enumerations of the wire and those of Core have the same values: each one of Core has one on the wire, no two
/// the same, and none on the wire is left over but UNSPECIFIED.
/// </summary>
public sealed class EnumTests
{
    [Fact]
    public void Every_value_of_Core_has_a_value_of_its_own_on_the_wire()
    {
        SameValues<TakeCause, V1.InvalidationCause>(WireEnums.ToWire, []);
        SameValues<StopReason, V1.StopReason>(WireEnums.ToWire, [StopReason.None]);
        SameValues<ThpMode, V1.ThpMode>(WireEnums.ToWire, []);
        SameValues<PendingSignal, V1.PendingSignal>(WireEnums.ToWire, [PendingSignal.None]);
        SameValues<DeviceMapping, V1.DeviceMapping>(WireEnums.ToWire, []);
        SameValues<FileKind, V1.FileKind>(WireEnums.ToWire, []);
        SameValues<HelperEra, V1.HelperEra>(WireEnums.ToWire, []);
    }

    [Fact]
    public void What_goes_both_ways_comes_back_as_it_was()
    {
        Assert.All(
            Enum.GetValues<ThpMode>(), mode => Assert.Equal(mode, WireEnums.ToCore(WireEnums.ToWire(mode), "f")));
        Assert.All(
            Enum.GetValues<PendingSignal>(),
            signal => Assert.Equal(signal, WireEnums.ToCore(WireEnums.ToWire(signal), "f")));
        Assert.All(
            Enum.GetValues<DeviceMapping>(),
            mapping => Assert.Equal(mapping, WireEnums.ToCore(WireEnums.ToWire(mapping), "f")));
        Assert.All(
            Enum.GetValues<FileKind>(), kind => Assert.Equal(kind, WireEnums.ToCore(WireEnums.ToWire(kind), "f")));
    }

    /// <summary>Compares both sides. The values in <paramref name="unsaid"/> are UNSPECIFIED on the wire.</summary>
    private static void SameValues<TCore, TWire>(Func<TCore, TWire> toWire, TCore[] unsaid)
        where TCore : struct, Enum
        where TWire : struct, Enum
    {
        Assert.All(unsaid, value => Assert.Equal(default, toWire(value)));
        var mapped = Enum.GetValues<TCore>().Except(unsaid).Select(toWire);
        Assert.Equal(Enum.GetValues<TWire>().Where(value => !value.Equals(default(TWire))), mapped.Order());
    }
}
