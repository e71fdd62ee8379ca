using FramePin.Client;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>The typed names: one form for each resource, and no other text is taken for one.</summary>
public sealed class NameTests
{
    [Fact]
    public void A_name_is_read_and_written_in_its_one_form()
    {
        IsOneForm<MachineName>("machines/default");
        IsOneForm<AddressSpaceName>("machines/m1/addressSpaces/as-1_b");
        IsOneForm<AttachmentName>("machines/m1/attachments/a7");
        IsOneForm<DeviceName>("machines/m1/devices/fb0");
        IsOneForm<DriverFileName>("machines/m1/driverFiles/12");
        IsOneForm<DriverName>("machines/m1/drivers/video0");
        IsOneForm<FrameVectorName>("machines/m1/frameVectors/18446744073709551615");
        IsOneForm<LeaseName>("machines/m1/leases/l3");
        IsOneForm<MemoryFileName>("machines/m1/files/f");
    }

    [Fact]
    public void Names_are_made_of_their_parts_and_are_values()
    {
        var machine = new MachineName("m1");
        Assert.Equal("machines/m1/addressSpaces/as1", new AddressSpaceName(machine, "as1"));
        Assert.Equal("machines/m1/frameVectors/4", new FrameVectorName(machine, 4));
        Assert.Equal(machine, AddressSpaceName.Parse("machines/m1/addressSpaces/as1").Machine);
        Assert.Equal(("as1", 4UL), (
            AddressSpaceName.Parse("machines/m1/addressSpaces/as1").Id,
            FrameVectorName.Parse("machines/m1/frameVectors/4").Number));
        Assert.Equal(new FrameVectorName(machine, 4), FrameVectorName.Parse("machines/m1/frameVectors/4"));
        Assert.NotEqual(new FrameVectorName(machine, 4), new FrameVectorName(MachineName.Default, 4));
    }

    [Theory]
    [InlineData("")]
    [InlineData("as 1")]
    [InlineData("1as")]
    [InlineData("a/b")]
    [InlineData("ä")]
    public void An_id_that_is_none_makes_no_name(string id)
    {
        Assert.Throws<ArgumentException>(() => new MachineName(id));
        Assert.Throws<ArgumentException>(() => new AddressSpaceName(MachineName.Default, id));
    }

    [Fact]
    public void Nothing_is_named_by_a_default_value_or_by_the_number_0()
    {
        Assert.Equal(("", "", ""), (
            default(MachineName).ToString(), default(LeaseName).ToString(), default(FrameVectorName).ToString()));
        Assert.Throws<ArgumentException>(() => new AddressSpaceName(default, "as1"));
        Assert.Throws<ArgumentOutOfRangeException>(() => new FrameVectorName(MachineName.Default, 0));
    }

    private static void IsOneForm<T>(string text)
        where T : struct, IParsable<T>
    {
        Assert.Equal(text, T.Parse(text, null).ToString());
        var parts = text.Split('/');
        string?[] wrong =
        [
            null, "", "machines", "machines/", "/" + text, text + "/", text + "/x", text + " ", " " + text,
            text.ToUpperInvariant(), "x" + text, $"machines/m1/things/{parts[^1]}", string.Join('/', parts[..^1]),
            $"machines/1/{string.Join('/', parts[2..])}", $"{string.Join('/', parts[..^1])}/-1",
            $"{string.Join('/', parts[..^1])}/0", $"{string.Join('/', parts[..^1])}/01",
            $"{string.Join('/', parts[..^1])}/18446744073709551616",
        ];
        foreach (var other in wrong.Where(other => other != text))
        {
            Assert.False(T.TryParse(other, null, out var name), $"{typeof(T).Name} takes '{other}'");
            Assert.Equal(default, name);
            Assert.Throws<FormatException>(() => T.Parse(other!, null));
        }
    }
}
