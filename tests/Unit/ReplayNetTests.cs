using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit;

/// <summary>The replay at the end of each test is a net that holds.</summary>
public sealed class ReplayNetTests
{
    [Fact]
    public void A_change_behind_the_back_of_the_commands_is_noticed()
    {
        var lab = new Lab();
        lab.Space.Brk += Lab.Page;
        var noticed = Assert.Throws<InvalidOperationException>(lab.Dispose);
        Assert.Contains("another state", noticed.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_hundred_pins_and_unpins_of_resident_pages_with_a_hold_take_no_command()
    {
        const ulong at = 0x10_0000;
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(at, 8);
        var before = lab.Machine.CommandNumber;
        for (var i = 0; i < 100; i++)
        {
            Assert.Equal(8, lab.Get(at, 8, out var vector).Pages);
            var hold = lab.Machine.HoldFrames(vector);
            lab.Machine.ReleaseHold(hold);
            lab.Drop(vector);
        }

        Assert.Equal(before, lab.Machine.CommandNumber);
    }
}
